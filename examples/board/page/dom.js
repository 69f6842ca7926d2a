// Small helpers to make elements; text is never parsed as HTML.

// h("button", { class: "quiet", onclick: f, "data-testid": "x" }, child, …) makes an element.
export function h(tag, props = {}, ...children) {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (v === undefined || v === false || v === null) continue;
    if (typeof v === "function") el[k] = v;
    else el.setAttribute(k, v === true ? "" : v);
  }
  el.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return el;
}

export const $ = (id) => document.getElementById(id);

// svg makes an element of a drawing.
export function svg(tag, props = {}, ...children) {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(props)) el.setAttribute(k, v);
  el.append(...children);
  return el;
}

const paths = {
  open: "M8 2.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 0 1 0-11z",
  in_progress: "M8 2.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 0 1 0-11zM8 5v3.2l2.2 1.4",
  done: "M8 2.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 0 1 0-11zM5.6 8.2l1.7 1.7l3.2-3.5",
  file: "M9.5 2.5H4.5v11h7v-9zM9.5 2.5v2h2",
  cross: "M4.5 4.5l7 7M11.5 4.5l-7 7",
  pen: "M3 13l.6-2.6L10.8 3.2l2 2L5.6 12.4z",
  lock: "M4.5 7.5h7v6h-7zM5.8 7.5V5.2a2.2 2.2 0 0 1 4.4 0v2.3",
};

export const icon = (name) => svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: paths[name] }));

export const initials = (name) => name.split(/\s+/).map((w) => w[0]).join("").slice(0, 2).toUpperCase();

// avatar has one of six colours, always the same for a user.
export function avatar(user, cls = "") {
  const colour = [...user.id].reduce((n, c) => n + c.codePointAt(0), 0) % 6;
  return h("span", { class: `avatar c${colour} ${cls}`, title: user.name, "aria-hidden": "true" }, initials(user.name));
}

export const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${Math.round(n / 1000)} kB` : `${(n / 1e6).toFixed(1)} MB`);

export const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

// ago puts a time into words; keepTime(root) does it again for everything that `time` made.
function ago(at) {
  const s = Math.max(0, (Date.now() - at) / 1000);
  if (s < 10) return "just now";
  if (s < 60) return `${Math.floor(s / 10) * 10} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export const time = (at) => h("time", { "data-at": String(at) }, ago(at));

export function keepTime(root) {
  setInterval(() => {
    for (const t of root.querySelectorAll("time[data-at]")) t.textContent = ago(Number(t.dataset.at));
  }, 5000);
}

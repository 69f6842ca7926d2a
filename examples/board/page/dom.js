// h("button", { class: "quiet", onclick: f, "data-testid": "x" }, child, …) makes an element; text is never parsed as HTML.
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

export const initials = (name) => name.split(/\s+/).map((w) => w[0]).join("").slice(0, 2).toUpperCase();

// avatar has one of six colours, always the same for a user.
export function avatar(user, cls = "") {
  const colour = [...user.id].reduce((n, c) => n + c.codePointAt(0), 0) % 6;
  return h("span", { class: `avatar c${colour} ${cls}`, title: user.name, "aria-hidden": "true" }, initials(user.name));
}

export const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${Math.round(n / 1000)} kB` : `${(n / 1e6).toFixed(1)} MB`);

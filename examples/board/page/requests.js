// Draws a program's requests. Each control calls act(method, path, body); nothing changes here before its event arrives.
import { h, avatar, bytes } from "./dom.js";

export const statusNames = { open: "Open", in_progress: "In progress", done: "Done" };

export function drawRequests(root, state, { act, fresh, open }) {
  // What is being typed or chosen survives the redraw.
  const typed = new Map([...root.querySelectorAll("input[data-key]")].map((i) => [i.dataset.key, i.value]));
  const focus = root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  root.replaceChildren(...(state.requests.length
    ? state.requests.map((r) => card(r, state, { act, fresh, open }))
    : [h("p", { class: "hint" }, "No requests yet.")]));
  for (const i of root.querySelectorAll("[data-key]")) {
    if (i.tagName === "INPUT" && typed.has(i.dataset.key)) i.value = typed.get(i.dataset.key);
    if (i.dataset.key === focus) i.focus();
  }
}

function card(r, state, { act, fresh, open }) {
  const path = `/api/requests/${r.id}`;
  const details = h("details", { open: open.has(r.id), ontoggle: (e) => (e.target.open ? open.add(r.id) : open.delete(r.id)) },
    h("summary", { "data-testid": "details", "data-key": `s${r.id}` }, summary(r)),
    r.comments.map((c) => comment(c, act)),
    r.attachments.map((a) => attachment(a, act)),
    commentForm(r, path, act),
    h("div", { class: "row" },
      h("button", { class: "quiet", "data-testid": "attach", "data-key": `a${r.id}`, onclick: () => act("POST", `${path}/attachments`, sample()) }, "Attach a file"),
      h("button", { class: "quiet", "data-testid": "rename", "data-key": `n${r.id}`, onclick: () => rename(r, path, act) }, "Rename")));
  return h("article", { class: `card ${fresh.has(r.id) ? "fresh" : ""}`, "data-testid": "request", "data-request": r.id, "data-status": r.status },
    h("div", { class: "row top" },
      h("h3", { "data-testid": "request-title" }, r.title),
      h("span", { class: "id" }, r.id)),
    h("div", { class: "row" }, statusButtons(r, path, act), h("span", { class: "grow" }), assignee(r, state.members, path, act)),
    details);
}

function summary(r) {
  const n = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
  const parts = [n(r.comments.length, "comment")];
  if (r.attachments.length) parts.push(n(r.attachments.length, "file"));
  return parts.join(" · ");
}

function statusButtons(r, path, act) {
  return h("div", { class: "segments", role: "group", "aria-label": "Status" }, Object.entries(statusNames).map(([status, name]) =>
    h("button", {
      class: `seg ${status}`, "aria-pressed": String(r.status === status), "data-testid": `status-${status}`, "data-key": `${status}${r.id}`,
      onclick: () => r.status !== status && act("POST", `${path}/status`, { status }),
    }, name)));
}

function assignee(r, members, path, act) {
  const select = h("select", {
    "aria-label": "Assigned to", "data-testid": "assignee", "data-key": `u${r.id}`,
    onchange: (e) => act("POST", `${path}/assignee`, { user: e.target.value }),
  }, h("option", { value: "" }, "Nobody"), members.map((m) => h("option", { value: m.id, selected: m.id === r.assignee?.id }, m.name)));
  return h("label", { class: "assignee" }, r.assignee ? avatar(r.assignee, "small") : h("span", { class: "avatar small nobody" }, "–"), select);
}

function comment(c, act) {
  return h("div", { class: "item", "data-testid": "comment" }, avatar(c.author, "small"),
    h("p", {}, h("b", {}, c.author.name), " ", c.body), trash("delete-comment", () => act("DELETE", `/api/comments/${c.id}`)));
}

function attachment(a, act) {
  return h("div", { class: "item", "data-testid": "attachment" }, h("span", { class: "avatar small file" }, "↧"),
    h("p", {}, a.name, " ", h("small", {}, bytes(a.size))), trash("delete-attachment", () => act("DELETE", `/api/attachments/${a.id}`)));
}

const trash = (id, onclick) => h("button", { class: "link", "data-testid": id, "aria-label": "Delete", title: "Delete", onclick }, "✕");

function commentForm(r, path, act) {
  return h("form", {
    class: "row",
    onsubmit: async (e) => {
      e.preventDefault();
      const input = e.target.elements.body;
      const body = input.value.trim();
      if (body && (await act("POST", `${path}/comments`, { body }))) {
        // A redraw may have put another input in its place.
        const now = document.querySelector(`input[data-key="c${r.id}"]`);
        for (const i of [input, now]) if (i?.value.trim() === body) i.value = "";
      }
    },
  },
  h("input", { name: "body", placeholder: "Write a comment", maxlength: "2000", autocomplete: "off", "aria-label": "Comment", "data-testid": "comment-input", "data-key": `c${r.id}` }),
  h("button", { class: "quiet", "data-testid": "comment-send", "data-key": `cs${r.id}` }, "Comment"));
}

// rename turns the title into an input until Enter, Escape or another click.
function rename(r, path, act) {
  const heading = document.querySelector(`[data-request="${r.id}"] h3`);
  const input = h("input", {
    value: r.title, maxlength: "200", "aria-label": "Title", "data-testid": "rename-input", "data-key": `t${r.id}`,
    onblur: () => { input.onblur = null; input.replaceWith(heading); },
    onkeydown: (e) => {
      if (e.key === "Enter" && input.value.trim()) act("PATCH", path, { title: input.value });
      if (e.key === "Enter" || e.key === "Escape") input.blur();
    },
  });
  heading.replaceWith(input);
  input.select();
}

// sample is a made-up file: the demo stores names, no bytes.
function sample() {
  const n = Math.floor(Math.random() * 900) + 100;
  return { name: `photo-${n}.jpg`, size: n * 1311 };
}

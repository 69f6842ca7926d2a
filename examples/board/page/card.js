// One request as a card. Each control calls act(method, path, body); nothing changes here before its event arrives.
import { avatar, bytes, h, icon, plural, time } from "./dom.js";
import { statusNames } from "./words.js";

export function card(r, { members, touched, open, fresh, act, drag }) {
  const path = `/api/requests/${r.id}`;
  const el = h("article", {
    class: `card ${fresh ? "fresh" : ""}`, draggable: "true", "data-testid": "request", "data-request": r.id, "data-status": r.status,
    ondragstart: (e) => drag(e, r),
    ondragend: () => el.classList.remove("dragged"),
  },
  h("div", { class: "head" }, h("h3", { "data-testid": "request-title" }, r.title), h("span", { class: "id" }, r.id)),
  touched && h("p", { class: "touched", "data-testid": "touched" }, avatar(touched.who, "tiny"),
    h("span", {}, h("b", {}, touched.who.name.split(" ")[0]), ` ${touched.did} this`), time(touched.at)),
  h("div", { class: "foot" }, assignee(r, members, path, act), moves(r, path, act)),
  h("details", { open: open.has(r.id), ontoggle: (e) => (e.target.open ? open.add(r.id) : open.delete(r.id)) },
    h("summary", { "data-testid": "details", "data-key": `s${r.id}` }, summary(r)),
    h("div", { class: "inside" },
      r.comments.map((c) => comment(c, act)),
      r.attachments.map((a) => attachment(a, act)),
      commentForm(r, path, act),
      h("div", { class: "row" },
        h("button", { class: "quiet", "data-testid": "attach", "data-key": `a${r.id}`, onclick: () => act("POST", `${path}/attachments`, sample()) }, icon("file"), "Attach a file"),
        h("button", { class: "quiet", "data-testid": "rename", "data-key": `n${r.id}`, onclick: () => rename(el, r, path, act) }, icon("pen"), "Rename")))));
  return el;
}

function summary(r) {
  const parts = [r.comments.length ? plural(r.comments.length, "comment") : "No comments"];
  if (r.attachments.length) parts.push(plural(r.attachments.length, "file"));
  return parts.join(" · ");
}

function moves(r, path, act) {
  return h("div", { class: "moves", role: "group", "aria-label": "Move to" }, Object.entries(statusNames).map(([status, name]) =>
    h("button", {
      class: `move ${status}`, "aria-pressed": String(r.status === status), "aria-label": name, title: name, "data-testid": `status-${status}`, "data-key": `${status}${r.id}`,
      onclick: () => r.status !== status && act("POST", `${path}/status`, { status }),
    }, icon(status))));
}

function assignee(r, members, path, act) {
  const select = h("select", {
    "aria-label": "Assigned to", "data-testid": "assignee", "data-key": `u${r.id}`,
    onchange: (e) => act("POST", `${path}/assignee`, { user: e.target.value }),
  }, h("option", { value: "" }, "Nobody"), members.map((m) => h("option", { value: m.id, selected: m.id === r.assignee?.id }, m.name)));
  if (r.assignee && !members.some((m) => m.id === r.assignee.id)) select.append(h("option", { value: r.assignee.id, selected: true }, r.assignee.name));
  return h("label", { class: "assignee" }, r.assignee ? avatar(r.assignee, "small") : h("span", { class: "avatar small nobody" }, "–"), select);
}

function comment(c, act) {
  return h("div", { class: "item", "data-testid": "comment" }, avatar(c.author, "small"),
    h("p", {}, h("b", {}, c.author.name), " ", c.body), trash("delete-comment", () => act("DELETE", `/api/comments/${c.id}`)));
}

function attachment(a, act) {
  return h("div", { class: "item", "data-testid": "attachment" }, h("span", { class: "avatar small file" }, icon("file")),
    h("p", {}, a.name, " ", h("small", {}, bytes(a.size))), trash("delete-attachment", () => act("DELETE", `/api/attachments/${a.id}`)));
}

const trash = (id, onclick) => h("button", { class: "link", "data-testid": id, "aria-label": "Delete", title: "Delete", onclick }, icon("cross"));

function commentForm(r, path, act) {
  return h("form", {
    class: "row",
    onsubmit: async (e) => {
      e.preventDefault();
      const body = e.target.elements.body.value.trim();
      if (!body || !(await act("POST", `${path}/comments`, { body }))) return;
      // The event may have drawn the card anew meanwhile, with what was typed in it.
      for (const i of [e.target.elements.body, document.querySelector(`input[data-key="c${r.id}"]`)]) if (i?.value.trim() === body) i.value = "";
    },
  },
  h("input", { name: "body", placeholder: "Write a comment", maxlength: "2000", autocomplete: "off", "aria-label": "Comment", "data-testid": "comment-input", "data-key": `c${r.id}` }),
  h("button", { class: "quiet", "data-testid": "comment-send", "data-key": `cs${r.id}` }, "Send"));
}

// rename turns the title into an input until Enter, Escape or another click.
function rename(el, r, path, act) {
  const heading = el.querySelector("h3");
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

// Draws the live feed: one line per event, newest first, at most 200.
import { h, avatar } from "./dom.js";
import { statusNames } from "./requests.js";

const most = 200;

const told = {
  "request:created": () => "created",
  "request:updated": () => "renamed",
  "request:status_changed": (d) => `set to ${(statusNames[d.status] ?? d.status).toLowerCase()}`,
  "request:assigned": (d) => (d.assignee ? `assigned to ${d.assignee.name}` : "assigned to nobody"),
  "comment:added": (d) => `commented “${d.comment.body}”`,
  "comment:deleted": () => "deleted a comment",
  "attachment:uploaded": (d) => `attached ${d.attachment.name}`,
  "attachment:deleted": () => "deleted a file",
};

// addEvent draws an event. caughtUp: it was missed and sent afterwards, so a latency would say nothing.
export function addEvent(feed, e, { title, program, caughtUp }) {
  const who = { id: e.performedBy?.userId ?? "?", name: e.performedBy?.name ?? "Somebody" };
  const ms = Math.max(0, performance.timeOrigin + performance.now() - Date.parse(e.timestamp));
  const badge = caughtUp
    ? h("span", { class: "badge caught", "data-testid": "caught-up", title: "Sent after the connection was back" }, "caught up")
    : h("span", { class: "badge", "data-testid": "latency", title: "From the INSERT in the transaction to this screen, by the clocks of both machines" }, ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  add(feed, h("li", { "data-testid": "event", "data-event": e.event, "data-request": e.requestId, "data-position": e.position, "data-id": e.id, "data-caught-up": String(caughtUp) },
    avatar(who, "small"),
    h("div", { class: "what" },
      h("p", {}, h("b", {}, who.name), " ", (told[e.event] ?? (() => e.event))(e.data), " · ", h("span", { class: "title" }, title ?? e.requestId ?? "")),
      h("small", {}, h("code", {}, e.event), ` · ${program ?? e.programId} ·\u00a0#${e.id}`)),
    badge));
}

// addNote draws a line that isn't an event and returns what changes its text.
export function addNote(feed, testid, text, cls = "") {
  const p = h("p", {}, text);
  const li = h("li", { class: `note ${cls}`, "data-testid": testid }, h("div", { class: "what" }, p));
  add(feed, li);
  return (newText, newClass = cls) => {
    p.textContent = newText;
    li.className = `note ${newClass}`;
  };
}

function add(feed, li) {
  feed.prepend(li);
  while (feed.children.length > most) feed.lastChild.remove();
}

// The live feed: one line per event, newest first, at most 200; and how long events took from commit to screen.
import { $, avatar, h, svg } from "./dom.js";
import { told } from "./words.js";

const most = 200;
const bars = 32;
const latencies = []; // ms, of the newest live events
let events = 0;

const inWords = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

// addEvent draws an event. caughtUp: it was missed and sent afterwards, so a latency would say nothing. elsewhere: of a program that isn't shown.
export function addEvent(e, { title, program, caughtUp, elsewhere }) {
  const who = { id: e.performedBy?.userId ?? "?", name: e.performedBy?.name ?? "Somebody" };
  const ms = Math.max(0, performance.timeOrigin + performance.now() - Date.parse(e.timestamp));
  if (!caughtUp) measure(ms);
  $("count").textContent = String(++events);
  const badge = caughtUp
    ? h("span", { class: "badge caught", "data-testid": "caught-up", title: "Sent after the connection was back" }, "caught up")
    : h("span", { class: "badge", "data-testid": "latency", "data-ms": ms.toFixed(1), title: "From the INSERT in the transaction to this screen, by the clocks of both machines" }, inWords(ms));
  add(h("li", { "data-testid": "event", "data-event": e.event, "data-request": e.requestId, "data-position": e.position, "data-id": e.id, "data-caught-up": String(caughtUp) },
    avatar(who, "small"),
    h("div", { class: "what" },
      h("p", {}, h("b", {}, who.name), " ", told(e, h("span", { class: "title" }, title ?? e.requestId ?? ""))),
      h("small", {}, h("code", {}, e.event), h("span", {}, `#${e.id}`), elsewhere && h("span", {}, `in ${program}`))),
    badge));
}

// addNote draws a line that isn't an event and returns what changes its text.
export function addNote(testid, text, cls = "") {
  const p = h("p", {}, text);
  const li = h("li", { class: `note ${cls}`, "data-testid": testid }, h("i"), p);
  add(li);
  return (newText, newClass = cls) => {
    p.textContent = newText;
    li.className = `note ${newClass}`;
  };
}

function add(li) {
  const feed = $("feed");
  $("feed-hint").hidden = true;
  feed.prepend(li);
  while (feed.children.length > most) feed.lastChild.remove();
}

// measure draws the newest latencies as bars, on a scale that ends at the greatest of them.
function measure(ms) {
  latencies.push(ms);
  if (latencies.length > bars) latencies.shift();
  const sorted = latencies.toSorted((a, b) => a - b);
  const top = Math.max(sorted.at(-1), 1);
  $("median").textContent = inWords(sorted[Math.floor(sorted.length / 2)]);
  $("pulse").replaceChildren(...latencies.map((v, i) => {
    const height = Math.max(2, (v / top) * 26);
    return svg("rect", { x: String((i + bars - latencies.length) * 6), y: String(28 - height), width: "4", height: String(height), rx: "1.5" });
  }));
}

export function clear() {
  $("feed").replaceChildren();
  $("feed-hint").hidden = false;
  $("count").textContent = String(events = 0);
}

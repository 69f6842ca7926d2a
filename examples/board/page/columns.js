// Draws a program's requests as columns by status. A card is made anew only when something of it has changed; one that has another place
// than before glides there.
import { h } from "./dom.js";
import { card } from "./card.js";
import { statusNames } from "./words.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Columns {
  cards = new Map(); // request id → { el, of: what it was made of }
  open = new Set(); // requests whose details are open
  dragged; // { id, status } while a card is dragged

  constructor(root, act) {
    this.root = root;
    this.act = act;
    this.lists = Object.fromEntries(Object.entries(statusNames).map(([status, name]) => [status, this.column(status, name)]));
  }

  column(status, name) {
    const count = h("span", { class: "count" });
    const list = h("div", { class: "cards" });
    const empty = h("p", { class: "empty" }, { open: "Nothing to begin with.", in_progress: "Nobody is at work.", done: "Nothing done yet." }[status]);
    const over = (on) => (e) => { if (this.dragged) { e.preventDefault(); section.classList.toggle("over", on && this.dragged.status !== status); } };
    const section = h("section", {
      class: `column ${status}`, "data-testid": `column-${status}`, "aria-label": name, ondragover: over(true), ondragleave: over(false),
      ondrop: (e) => {
        over(false)(e);
        if (this.dragged && this.dragged.status !== status) this.act("POST", `/api/requests/${this.dragged.id}/status`, { status });
        this.dragged = undefined;
      },
    }, h("h2", {}, h("i"), name, count), list, empty);
    this.root.append(section);
    return { list, count, empty };
  }

  // draw shows a program; fresh are the requests that an event has just touched.
  draw(program, state, touched, fresh) {
    const glide = this.program === program && !still.matches;
    if (this.program !== program) this.cards.clear();
    this.program = program;
    const before = new Map();
    if (glide) for (const [id, { el }] of this.cards) before.set(id, el.getBoundingClientRect());
    const drag = (e, r) => {
      this.dragged = { id: r.id, status: r.status };
      e.dataTransfer.effectAllowed = "move";
      e.dataTransfer.setData("text/plain", r.title);
      e.currentTarget.classList.add("dragged");
    };
    const next = new Map();
    for (const r of state.requests) {
      const mine = { members: state.members, touched: touched.get(r.id), open: this.open, act: this.act, drag, fresh: fresh.has(r.id) };
      const of = JSON.stringify([r, mine.touched, mine.members]);
      const was = this.cards.get(r.id);
      next.set(r.id, was?.of === of ? was : { of, el: kept(was?.el, () => card(r, mine)) });
    }
    this.cards = next;
    for (const [status, { list, count, empty }] of Object.entries(this.lists)) {
      const own = state.requests.filter((r) => r.status === status);
      place(list, own.map((r) => next.get(r.id).el));
      count.textContent = String(own.length);
      empty.hidden = own.length > 0;
    }
    for (const [id, { el }] of next) {
      const from = before.get(id);
      if (from) move(el, from, el.getBoundingClientRect());
      else if (glide) el.animate([{ opacity: 0, transform: "translateY(-10px) scale(.97)" }, {}], { duration: 320, easing: "ease-out" });
    }
  }
}

// place puts elements into a list; those that stand right are not touched, so that they keep focus and scrolling.
function place(list, elements) {
  const wanted = new Set(elements);
  for (const el of [...list.children]) if (!wanted.has(el)) el.remove();
  elements.forEach((el, i) => { if (list.children[i] !== el) list.insertBefore(el, list.children[i] ?? null); });
}

// kept makes an element anew; what was typed in the old one, and the focus, go over to it.
function kept(old, make) {
  const el = make();
  if (!old) return el;
  const typed = new Map([...old.querySelectorAll("input[data-key]")].map((i) => [i.dataset.key, i.value]));
  const focus = old.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  for (const i of el.querySelectorAll("input[data-key]")) if (typed.has(i.dataset.key)) i.value = typed.get(i.dataset.key);
  if (focus) queueMicrotask(() => el.querySelector(`[data-key="${focus}"]`)?.focus({ preventScroll: true }));
  return el;
}

function move(el, from, to) {
  const [x, y] = [from.left - to.left, from.top - to.top];
  if (!x && !y) return;
  const far = Math.abs(x) > 40;
  if (far) el.classList.add("flying");
  const flight = el.animate([{ transform: `translate(${x}px, ${y}px)${far ? " rotate(1.2deg)" : ""}` }, { transform: "none" }],
    { duration: far ? 620 : 320, easing: "cubic-bezier(.2, .8, .2, 1)" });
  flight.onfinish = flight.oncancel = () => el.classList.remove("flying");
}

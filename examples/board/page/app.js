// The page: sign-in, the client, the buttons.
import { connect } from "/outbox-relay.js";
import { Board } from "./board.js";
import { Columns } from "./columns.js";
import { $, avatar, h, icon, keepTime, plural } from "./dom.js";
import { addEvent, addNote, clear } from "./feed.js";
import { plug } from "./line.js";
import { call, me, signIn, token, users } from "./session.js";
import { did } from "./words.js";

const offlineFor = Number(new URLSearchParams(location.search).get("offline") ?? 10) * 1000; // ?offline=60: a longer break
const quietFor = 2000; // how long a rolled-back transaction is watched before the feed says that nothing came of it

let relay;
const line = plug();
const board = new Board();
const programs = new Map(); // id → { name, news: events while another tab was shown, leaving: when, if so }
const fresh = new Set(); // requests to highlight in the next drawing
const seen = new Set(); // ids of requests that an event has named
const columns = new Columns($("requests"), act);
let current; // the program that is shown
let wasLive = false;
let settled = false; // everything is up to date
let missed = 0; // events caught up since the connection was last lost
let due = false; // a drawing is

// act runs one of the board's transactions; the screen changes when its event arrives.
async function act(method, path, body) {
  try {
    const result = await call(method, path, body);
    problem("");
    return result;
  } catch (err) {
    problem(`That didn't work: ${err.message}.`);
  }
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function showSignIn() {
  $("board").hidden = true;
  $("signin").hidden = false;
  $("users").replaceChildren(...(await users()).map((u) => h("button", { class: "user", "data-testid": `sign-in-${u.id}`, onclick: () => enter(u.id) },
    avatar(u), h("span", {}, h("b", {}, u.name), h("small", {}, u.programs.join(", ") || "no programs")))));
}

async function enter(id) {
  await signIn(id);
  sessionStorage.setItem("user", id); // per window: two windows are two users
  const mine = await call("GET", "/api/programs");
  $("signin").hidden = true;
  $("board").hidden = false;
  $("me-name").textContent = me().name;
  $("me-avatar").replaceWith(Object.assign(avatar(me()), { id: "me-avatar" }));
  document.title = `${me().name} · outbox-relay`;
  relay = connect("/ws", { token, WebSocket: line.WebSocket, onLogin: () => problem("Signed out by the server: sign out and in again.") });
  relay.onStatus(onStatus);
  for (const p of mine) follow(p.id, p.name);
}

// follow subscribes to a program: its state first, then each event once and in order.
function follow(id, name) {
  programs.set(id, { name, news: 0 });
  const program = relay.program(id, { state: async () => {
    const state = await call("GET", `/api/state?program=${encodeURIComponent(id)}`);
    programs.get(id).name = state.program.name;
    board.set(state);
    draw();
  } });
  program.on("*", onEvent);
  program.onGap(({ reason }) => addNote("gap", reason === "membership" ? `You are a member of ${programs.get(id).name} now: its state was read.`
    : `Not all that was missed in ${programs.get(id).name} is sent again (${reason}): its state was read anew.`));
  program.onStatus(({ state }) => {
    const p = programs.get(id);
    settle();
    if (state === "absent" && board.programs.has(id)) {
      board.drop(id);
      addNote("left", `You are no longer a member of ${p.name}${p.leaving ? `: the room closed ${Math.round(performance.now() - p.leaving)} ms after the click` : ""}.`);
    }
    p.leaving = undefined;
    draw();
  });
}

function onEvent(e) {
  const caughtUp = relay.program(e.programId).status.state !== "live";
  if (caughtUp) missed++;
  board.apply(e, did(e));
  if (e.requestId) {
    seen.add(e.requestId);
    fresh.add(e.requestId);
  }
  const p = programs.get(e.programId);
  if (e.programId !== current) p.news++;
  addEvent(e, { title: board.title(e.programId, e.requestId), program: p.name, caughtUp, elsewhere: e.programId !== current });
  draw();
}

function onStatus(status) {
  const { state } = status;
  for (const id of relay.programs) if (!programs.has(id)) follow(id, id); // somebody has added us to it
  if (state !== "live") settled = false;
  settle();
  light(status);
  if (state === "closed" && status.code !== 1000) problem(`The server closed the connection (${status.code} ${status.reason}) and asks not to try again by itself. Sign out and in again.`);
  draw();
}

// settle says so when everything is up to date again: the connection, and each program's state.
function settle() {
  const busy = [...programs.keys()].some((id) => !["live", "absent"].includes(relay.program(id).status.state));
  if (settled || busy || relay.status.state !== "live") return;
  if (wasLive) addNote("catch-up-done", missed ? `Back online: ${plural(missed, "missed event")} caught up.` : "Back online: nothing was missed.", "good");
  settled = wasLive = true;
  missed = 0;
}

let countdown; // while offline, what shows the seconds
function light(status) {
  const state = line.out() || status.state === "waiting" ? "offline" : status.state;
  const until = line.out() ? line.until : status.retryAt;
  const left = Math.max(0, Math.ceil((until - Date.now()) / 1000));
  $("light").dataset.state = state;
  $("light-text").textContent = { live: "live", connecting: "connecting", offline: `offline, ${left} s`, closed: "closed" }[state];
  $("offline").disabled = state !== "live" && !line.out();
  $("offline-on").hidden = line.out();
  $("offline-off").hidden = !line.out();
  clearTimeout(countdown);
  if (state === "offline") countdown = setTimeout(() => light(relay.status), 250);
}

// draw draws once for all events of a message.
function draw() {
  if (due) return;
  due = true;
  queueMicrotask(() => {
    due = false;
    drawNow();
  });
}

function drawNow() {
  const ids = [...programs.keys()].sort();
  if (!programs.has(current)) current = ids[0];
  $("tabs").replaceChildren(...ids.map((id) => {
    const { name, news } = programs.get(id);
    return h("button", { role: "tab", "aria-selected": String(id === current), class: board.programs.has(id) ? "" : "shut", "data-testid": `program-${id}`, onclick: () => show(id) },
      board.programs.has(id) ? null : icon("lock"), name, news > 0 && h("span", { class: "news" }, String(news)));
  }));
  const state = board.programs.get(current);
  const absent = current !== undefined && !state && relay.program(current).status.state === "absent";
  $("open-program").hidden = !state;
  $("shut-program").hidden = !absent;
  $("no-program").hidden = current !== undefined;
  $("program-name").textContent = programs.get(current)?.name ?? "";
  $("shut-name").textContent = programs.get(current)?.name ?? "";
  if (!state) return;
  drawPresence(state);
  columns.draw(current, state, board.touched, fresh);
  fresh.clear();
}

// drawPresence shows the members; those who acted last stand first and are lit for a while.
function drawPresence(state) {
  const last = new Map();
  for (const r of state.requests) {
    const t = board.touched.get(r.id);
    if (t && !(last.get(t.who.id)?.at > t.at)) last.set(t.who.id, { ...t, title: r.title });
  }
  const at = (m) => last.get(m.id)?.at ?? 0;
  const people = state.members.toSorted((a, b) => at(b) - at(a));
  $("presence").replaceChildren(...people.map((m) => {
    const el = avatar(m, Date.now() - at(m) < 60_000 ? "lit" : "");
    if (last.has(m.id)) el.title = `${m.name} ${last.get(m.id).did} “${last.get(m.id).title}”`;
    return el;
  }));
  const newest = people.length && last.get(people[0].id);
  $("acted").replaceChildren(...(newest ? [h("b", {}, newest.who.name.split(" ")[0]), ` ${newest.did} “${newest.title}”`] : [plural(people.length, "member")]));
}

function show(id) {
  current = id;
  programs.get(id).news = 0;
  draw();
}

$("create").onsubmit = async (e) => {
  e.preventDefault();
  const title = $("title").value.trim() || "Untitled request";
  if (await act("POST", "/api/requests", { program: current, title })) $("title").value = "";
};

$("rollback").onclick = async () => {
  const done = await act("POST", "/api/rollback", { program: current, title: $("title").value.trim() || "Never happened" });
  if (!done) return;
  const n = done.events.length;
  const what = `A transaction with ${n} events (#${done.events[0]} to #${done.events[n - 1]}) was rolled back.`;
  const say = addNote("rolled-back", `${what} Watching for them …`, "bad");
  setTimeout(() => say(seen.has(done.request) ? `${what} And yet an event arrived!` : `${what} Nothing arrived, as it should be.`, seen.has(done.request) ? "bad" : "good"), quietFor);
};

$("offline-for").textContent = `${offlineFor / 1000} s`;
let back; // the timer that ends the break
$("offline").onclick = () => {
  clearTimeout(back);
  if (line.out()) return online();
  line.pull(offlineFor);
  addNote("offline", "Offline: make changes in another window.");
  back = setTimeout(online, offlineFor);
};
function online() {
  line.put();
  relay.reconnect();
  light(relay.status);
}

$("leave").onclick = () => {
  programs.get(current).leaving = performance.now();
  act("DELETE", `/api/programs/${current}/membership`);
};
$("rejoin").onclick = () => act("PUT", `/api/programs/${current}/membership`);
$("clear").onclick = clear;
$("feed-handle").onclick = () => $("feed-panel").classList.toggle("up");
$("signout").onclick = () => {
  relay?.close();
  sessionStorage.removeItem("user");
  location.reload();
};

keepTime(document);
const known = sessionStorage.getItem("user");
if (known) enter(known).catch(showSignIn);
else showSignIn();

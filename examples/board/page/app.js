// The page: sign-in, the WebSocket, the buttons.
import { $, h, avatar } from "./dom.js";
import { addEvent, addNote } from "./feed.js";
import { drawRequests } from "./requests.js";
import { Board } from "./state.js";
import { subscribe } from "./subscribe.js";

const offlineFor = Number(new URLSearchParams(location.search).get("offline") ?? 10) * 1000; // ?offline=2: a shorter break, for tests
const quietFor = 2000; // how long a rolled-back transaction is watched before the feed says that nothing came of it

let user, jwt; // who is signed in
let connection;
let chosen; // the program whose tab was clicked last
let current; // the program that is shown: the chosen one, else the first
let events = 0;
let missed = 0; // events caught up since the connection was last lost
let live = false, wasLive = false;
const seen = new Set(); // ids of requests that an event has named
const fresh = new Set(); // requests to highlight in the next drawing
const open = new Set(); // requests whose details are open
const board = new Board((id) => call("GET", `/api/state?program=${encodeURIComponent(id)}`));

// call is one request to the API, with one new sign-in if the server has forgotten ours.
async function call(method, path, body, again = true) {
  const answer = await fetch(path, { method, headers: { authorization: `Bearer ${jwt}`, "content-type": "application/json" }, body: body && JSON.stringify(body) });
  if (answer.status === 401 && again) {
    await signIn(user.id);
    return call(method, path, body, false);
  }
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error);
  return result;
}

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

async function signIn(id) {
  const answer = await fetch("/demo/token", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ user: id }) });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error);
  ({ token: jwt, user } = result);
  return jwt;
}

async function showSignIn() {
  $("board").hidden = true;
  $("signin").hidden = false;
  const users = await (await fetch("/demo/users")).json();
  $("users").replaceChildren(...users.map((u) => h("button", { class: "user", "data-testid": `sign-in-${u.id}`, onclick: () => enter(u.id) },
    avatar(u), h("span", {}, h("b", {}, u.name), h("small", {}, u.programs.join(", ") || "no programs")))));
}

async function enter(id) {
  await signIn(id);
  sessionStorage.setItem("user", id); // per window: two windows are two users
  $("signin").hidden = true;
  $("board").hidden = false;
  $("me-name").textContent = user.name;
  $("me-avatar").replaceWith(Object.assign(avatar(user), { id: "me-avatar" }));
  document.title = `${user.name} · outbox-relay`;
  connection = subscribe({
    url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`,
    token: async (renew) => (renew ? signIn(user.id) : jwt),
    on: { event: onEvent, gap: onGap, joined: (f) => onGap({ ...f, reason: "joined" }), left: onLeft, status: onStatus },
  });
}

function onEvent(e) {
  const caughtUp = !live;
  if (caughtUp) missed++;
  board.apply(e);
  if (e.requestId) {
    seen.add(e.requestId);
    fresh.add(e.requestId);
  }
  $("count").textContent = String(++events);
  $("feed-hint").hidden = true;
  addEvent($("feed"), e, { title: board.title(e.programId, e.requestId), program: board.programs.get(e.programId)?.program.name, caughtUp });
  draw();
}

async function onGap({ programId, reason }) {
  if (reason !== "new") addNote($("feed"), "gap", reason === "joined" ? `You are now a member of ${programId}.` : `Some events of ${programId} can't be sent again (${reason}): its state was read anew.`);
  try {
    await board.load(programId);
  } catch (err) {
    problem(`Can't read the state of ${programId}: ${err.message}.`);
  }
  draw();
}

function onLeft({ programId }) {
  addNote($("feed"), "left", `You are no longer a member of ${programId}.`);
  board.drop(programId);
  draw();
}

function onStatus(state, detail) {
  if (state === "catching-up") for (const id of board.programs.keys()) if (!detail.programs.includes(id)) board.drop(id); // left while we were away
  if (state === "live" && wasLive) addNote($("feed"), "catch-up-done", missed ? `Back online: ${missed} missed event${missed === 1 ? "" : "s"} caught up.` : "Back online: nothing was missed.", "good");
  if (state === "live") wasLive = true;
  if (state !== "catching-up") missed = 0;
  live = state === "live";
  $("light").dataset.state = state;
  $("light-text").textContent = { live: "live", "catching-up": "catching up", offline: "offline", closed: "closed" }[state];
  $("offline").disabled = !live;
  if (state === "closed") problem(`The server closed the connection (${detail.code}${detail.reason ? ` ${detail.reason}` : ""}) and asks not to try again by itself. Sign out and in again.`);
  draw();
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function draw() {
  const ids = [...board.programs.keys()].sort();
  current = ids.includes(chosen) ? chosen : ids[0];
  $("tabs").replaceChildren(...ids.map((id) => h("button", { role: "tab", "aria-selected": String(id === current), "data-testid": `program-${id}`, onclick: () => { chosen = id; draw(); } },
    board.programs.get(id).program.name, h("span", { class: "count" }, String(board.programs.get(id).requests.length)))));
  $("create").hidden = current === undefined;
  if (current === undefined) return $("requests").replaceChildren(h("p", { class: "hint" }, "No programs."));
  drawRequests($("requests"), board.programs.get(current), { act, fresh, open });
  fresh.clear();
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
  const what = `${done.request}: a transaction with ${n} events (#${done.events[0]} to #${done.events[n - 1]}) was rolled back.`;
  const say = addNote($("feed"), "rolled-back", `${what} Watching for them …`, "bad");
  $("feed-hint").hidden = true;
  setTimeout(() => say(seen.has(done.request) ? `${what} And yet an event arrived!` : `${what} Nothing arrived, as it should be.`, seen.has(done.request) ? "bad" : "good"), quietFor);
};

$("offline").textContent = `Go offline for ${offlineFor / 1000} s`;
$("offline").onclick = () => {
  connection.pause(offlineFor);
  const until = Date.now() + offlineFor;
  const say = addNote($("feed"), "offline", "Offline: make changes in another window.");
  const tick = setInterval(() => {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (left > 0 && $("light").dataset.state === "offline") $("light-text").textContent = `offline, ${left} s`;
    else { clearInterval(tick); say("Was offline."); }
  }, 200);
};

$("clear").onclick = () => {
  $("feed").replaceChildren();
  $("count").textContent = String(events = 0);
};

$("signout").onclick = () => {
  connection?.close();
  sessionStorage.removeItem("user");
  location.reload();
};

const known = sessionStorage.getItem("user");
if (known) enter(known).catch(showSignIn);
else showSignIn();

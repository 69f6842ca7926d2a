// The board's state in the browser: what the server answered, with each event applied to it. Applying is idempotent (by id), so
// an event that the answer contained already changes nothing.

export class Board {
  constructor(fetchState) {
    this.fetchState = fetchState; // program id → promise of its state
    this.programs = new Map(); // id → { program, members, requests }
    this.waiting = new Map(); // id → events that came while its state was being read
  }

  // Reads a program's state (again). Events that arrive meanwhile are applied to the answer.
  async load(id) {
    const events = [];
    this.waiting.set(id, events);
    try {
      const state = await this.fetchState(id);
      if (this.waiting.get(id) !== events) return; // a later load is on its way
      this.programs.set(id, state);
      for (const e of events) change(state, e);
    } finally {
      if (this.waiting.get(id) === events) this.waiting.delete(id);
    }
  }

  apply(event) {
    this.waiting.get(event.programId)?.push(event);
    const state = this.programs.get(event.programId);
    if (state) change(state, event);
  }

  drop(id) {
    this.programs.delete(id);
    this.waiting.delete(id);
  }

  title(programId, requestId) {
    return this.programs.get(programId)?.requests.find((r) => r.id === requestId)?.title;
  }
}

function change(state, { event, requestId, data }) {
  if (event === "request:created") {
    if (!state.requests.some((r) => r.id === requestId)) {
      state.requests.unshift({ id: requestId, ...data, assignee: null, comments: [], attachments: [] });
    }
    return;
  }
  const request = state.requests.find((r) => r.id === requestId);
  if (!request) return;
  const put = (list, item) => list.some((x) => x.id === item.id) || list.push(item);
  const remove = (list, item) => list.filter((x) => x.id !== item.id);
  switch (event) {
    case "request:updated": request.title = data.title; break;
    case "request:status_changed": request.status = data.status; break;
    case "request:assigned": request.assignee = data.assignee; break;
    case "comment:added": put(request.comments, data.comment); break;
    case "comment:deleted": request.comments = remove(request.comments, data.comment); break;
    case "attachment:uploaded": put(request.attachments, data.attachment); break;
    case "attachment:deleted": request.attachments = remove(request.attachments, data.attachment); break;
  }
}

// The board's state in the browser: what the server answered, with each event applied to it. The client hands out an event only after the
// state that was loaded before it; applying is idempotent (by id), so one that the state contained already changes nothing.

export class Board {
  programs = new Map(); // id → { program, members, requests }, of those that are open
  touched = new Map(); // request id → { who, did, at }: who acted last

  set(state) {
    this.programs.set(state.program.id, state);
  }

  drop(id) {
    this.programs.delete(id);
  }

  apply(event, did) {
    const { programId, requestId, performedBy, timestamp } = event;
    const state = this.programs.get(programId);
    if (!state) return;
    change(state, event);
    if (requestId) this.touched.set(requestId, { who: { id: performedBy?.userId ?? "?", name: performedBy?.name ?? "Somebody" }, did, at: Date.parse(timestamp) });
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
    case "request:status_changed":
      request.status = data.status;
      state.requests = [request, ...state.requests.filter((r) => r !== request)]; // on top of its new column
      break;
    case "request:assigned": request.assignee = data.assignee; break;
    case "comment:added": put(request.comments, data.comment); break;
    case "comment:deleted": request.comments = remove(request.comments, data.comment); break;
    case "attachment:uploaded": put(request.attachments, data.attachment); break;
    case "attachment:deleted": request.attachments = remove(request.attachments, data.attachment); break;
  }
}

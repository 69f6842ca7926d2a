// What an event says, in words.

export const statusNames = { open: "Open", in_progress: "In progress", done: "Done" };

const status = (s) => statusNames[s] ?? s;

// told completes "Ann Lee …" with the request's title t in it; did completes "Ann … this".
const words = {
  "request:created": { told: (_, t) => ["created ", t], did: "created" },
  "request:updated": { told: (_, t) => ["renamed it ", t], did: "renamed" },
  "request:status_changed": { told: (d, t) => ["moved ", t, ` to ${status(d.status)}`], did: "moved" },
  "request:assigned": { told: (d, t) => ["assigned ", t, ` to ${d.assignee?.name ?? "nobody"}`], did: "assigned" },
  "comment:added": { told: (d, t) => [`commented “${d.comment.body}” on `, t], did: "commented on" },
  "comment:deleted": { told: (_, t) => ["deleted a comment on ", t], did: "tidied" },
  "attachment:uploaded": { told: (d, t) => [`attached ${d.attachment.name} to `, t], did: "attached a file to" },
  "attachment:deleted": { told: (_, t) => ["deleted a file of ", t], did: "tidied" },
};

export const told = (e, title) => words[e.event]?.told(e.data, title) ?? [`${e.event} `, title];
export const did = (e) => words[e.event]?.did ?? "changed";

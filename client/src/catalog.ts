// Generated from outbox/catalog.json by `make generate`: don't edit.

/** A user, as events name one. */
export type Person = {
  id: string;
  name: string;
};

/** A request was created. The data of `request:created`. */
export type RequestCreated = {
  title: string;
  /** The status that it begins with. */
  status: string;
};

/** A request's own fields were changed. The data of `request:updated`. */
export type RequestUpdated = {
  title: string;
};

/** A request went from one status to another. The data of `request:status_changed`. */
export type RequestStatusChanged = {
  /** The status before. */
  from?: string;
  /** The status from now on. */
  status: string;
};

/** A request was given to somebody, or to nobody. The data of `request:assigned`. */
export type RequestAssigned = {
  assignee: Person | null;
};

/** A comment was added to a request. The data of `comment:added`. */
export type CommentAdded = {
  comment: {
    id: string;
    body: string;
    author: Person;
  };
};

/** A comment was deleted. The data of `comment:deleted`. */
export type CommentDeleted = {
  comment: {
    id: string;
  };
};

/** A file was attached to a request. The data of `attachment:uploaded`. */
export type AttachmentUploaded = {
  attachment: {
    id: string;
    name: string;
    /** In bytes. */
    size: number;
  };
};

/** A file was taken off a request. The data of `attachment:deleted`. */
export type AttachmentDeleted = {
  attachment: {
    id: string;
  };
};

/** The data of each event, by the event's name. */
export type Catalog = {
  "request:created": RequestCreated;
  "request:updated": RequestUpdated;
  "request:status_changed": RequestStatusChanged;
  "request:assigned": RequestAssigned;
  "comment:added": CommentAdded;
  "comment:deleted": CommentDeleted;
  "attachment:uploaded": AttachmentUploaded;
  "attachment:deleted": AttachmentDeleted;
};

/** The names of the events. */
export type EventName = keyof Catalog;

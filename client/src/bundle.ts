// The entry of bundle/outbox-relay.js: the core and the storage in one file.

export { connect } from "./connect.js";
export { positionStore } from "./storage.js";

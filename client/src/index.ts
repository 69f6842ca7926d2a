// What `@outboxrelay/client` exports.

export type * from "./catalog.js";
export { connect, type Relay } from "./connect.js";
export type { Gap, NameOf, RelayEvent } from "./frames.js";
export type { Unsubscribe } from "./listeners.js";
export type { Clock, Options, PositionStore, Token, WebSocketClass, WebSocketLike } from "./options.js";
export type { Program, ProgramOptions } from "./program.js";
export type { Closed, ProgramStatus, Status } from "./status.js";

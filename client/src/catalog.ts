// The events of the catalog and what is known of their data.

/** The data of each event, by its name. An application's own catalog is an interface like this one: `connect<MyCatalog>(…)`. */
export interface Catalog {
  "request:created": Record<string, unknown>;
  "request:updated": Record<string, unknown>;
  "request:status_changed": Record<string, unknown>;
  "request:assigned": Record<string, unknown>;
  "comment:added": Record<string, unknown>;
  "comment:deleted": Record<string, unknown>;
  "attachment:uploaded": Record<string, unknown>;
  "attachment:deleted": Record<string, unknown>;
}

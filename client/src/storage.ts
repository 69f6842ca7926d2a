// Positions that survive a page reload.

import type { PositionStore } from "./options.js";

/** What is used of a Storage: its type isn't there where the DOM's types aren't. */
interface Area {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/**
 * positionStore keeps the positions of one user in `sessionStorage`: for this tab, over reloads. `localStorage` keeps them over a restart
 * of the browser too, and shares them among tabs: whichever tab wrote last wins. Without storage (blocked, full) nothing is kept.
 */
export const positionStore = (user: string, area?: Area): PositionStore => {
  const key = `outbox-relay:${user}`;
  const tried = <T>(use: (area: Area) => T) => {
    try {
      return use(area ?? sessionStorage);
    } catch {} // an access alone may throw
    return;
  };
  return {
    load() {
      const saved: unknown = tried((area) => JSON.parse(area.getItem(key) ?? ""));
      const digits = (entry: [string, unknown]): entry is [string, string] => typeof entry[1] === "string" && /^\d+$/.test(entry[1]);
      return saved && typeof saved === "object" ? Object.fromEntries(Object.entries(saved).filter(digits)) : undefined;
    },
    save(positions) {
      tried((area) => area.setItem(key, JSON.stringify(positions)));
    },
  };
};

// Generated from orders.json by `outbox-relay catalog`: don't edit.

/** An amount in the smallest unit of its currency. */
export type Money = {
  amount: number;
  currency: string;
};

export type Carrier = "bike" | "van";

/** Somebody has placed an order. The data of `order:placed`. */
export type OrderPlaced = {
  total: Money;
  lines: {
    /** As it's printed on the label. */
    sku: string;
    count: number;
  }[];
  note?: string | null;
  "gift-wrap"?: boolean;
};

/** The data of `order:sent_out`. */
export type OrderSentOut = {
  carrier: Carrier;
  labels?: Record<string, string>;
  stops?: (Carrier | null)[];
};

/** The data of `order:cancelled`. */
export type OrderCancelled = Record<string, unknown>;

/** The data of each event, by the event's name. */
export type Catalog = {
  "order:placed": OrderPlaced;
  "order:sent_out": OrderSentOut;
  "order:cancelled": OrderCancelled;
};

/** The names of the events. */
export type EventName = keyof Catalog;

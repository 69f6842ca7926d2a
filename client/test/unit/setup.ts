// Node has no window to dispatch "online" to; what a browser and a worker have is enough.

const outside = new EventTarget();
Object.assign(globalThis, {
  addEventListener: outside.addEventListener.bind(outside),
  removeEventListener: outside.removeEventListener.bind(outside),
  dispatchEvent: outside.dispatchEvent.bind(outside),
});

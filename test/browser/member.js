// A user without a window: the board's API as the page calls it.
import assert from "node:assert/strict";

export async function member(url, user) {
  let token;
  const call = async (method, path, body) => {
    const answer = await fetch(url + path, { method, headers: { authorization: `Bearer ${token}`, "content-type": "application/json" }, body: body && JSON.stringify(body) });
    const result = await answer.json();
    assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${result.error}`);
    return result;
  };
  ({ token } = await call("POST", "/demo/token", { user }));
  return {
    token,
    post: (path, body) => call("POST", path, body),
    put: (path) => call("PUT", path),
    delete: (path) => call("DELETE", path),
    state: (program) => call("GET", `/api/state?program=${program}`),
  };
}

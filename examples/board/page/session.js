// Who is signed in, and the board's API.

let user;
let jwt;

export const me = () => user;

const seconds = Number(new URLSearchParams(location.search).get("token")) || undefined; // ?token=20: tokens that expire soon, to watch the renewal

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error);
  return result;
}

// signIn gets a new token. A real application would ask its login for it.
export async function signIn(id) {
  ({ token: jwt, user } = await post("/demo/token", { user: id, seconds }));
  return jwt;
}

// token is what the client calls before it connects, and before a token expires.
export const token = ({ fresh }) => (fresh ? signIn(user.id) : jwt);

export const users = async () => (await fetch("/demo/users")).json();

// call is one request to the API, with one new sign-in if the server has forgotten ours.
export async function call(method, path, body, again = true) {
  const answer = await fetch(path, { method, headers: { authorization: `Bearer ${jwt}`, "content-type": "application/json" }, body: body && JSON.stringify(body) });
  if (answer.status === 401 && again) {
    await signIn(user.id);
    return call(method, path, body, false);
  }
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error);
  return result;
}

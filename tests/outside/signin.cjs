// Signs in to running vitals with a real browser and a real OpenID provider, over two instances
// behind one address: the wall is live, an alert is acknowledged, a forged request is refused,
// and a session ends where it should. Usage: node signin.cjs VITALS SCRATCH BROWSER NODE_DIR
const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const { createServer } = require("node:http");
const { connect, createServer: createTcp } = require("node:net");
const { openSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");
const { pathToFileURL } = require("node:url");
const { chromium } = require("playwright-core");

const [vitals, scratch, browserPath, nodeDir] = process.argv.slice(2);
const SOON_MS = 30_000;
const TENANT = "outside";
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith("VITALS_") && key !== "DATABASE_URL"));
env.VITALS_DATA_DIR = join(scratch, "data");
env.VITALS_DRAIN = "0s";
// With all that has to be encoded on its way.
env.VITALS_OIDC_CLIENT_SECRET = "a secret of the check: with: signs & spaces";

// What the provider has to say of being one of a check.
console.warn = console.info = () => {};

const children = new Set(), servers = [];

/** A program that says `ready http://…`, and that address. */
function started(...options) {
  const child = spawn(vitals, options, { env, stdio: ["ignore", "pipe", openSync(join(scratch, "vitals.log"), "a")] });
  children.add(child);
  return new Promise((resolve, reject) => {
    let said = "";
    child.stdout.on("data", (part) => {
      said += part;
      const ready = /^ready (\S+)$/m.exec(said);
      if (ready) resolve({ child, base: ready[1] });
    });
    child.on("exit", (status) => reject(new Error(`vitals ended with ${status}: ${said}`)));
  });
}

async function eventually(what, look) {
  const until = Date.now() + SOON_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < until, `waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function listening(server) {
  servers.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server.address().port;
}

/** One address: each connection goes to the next instance that is there. */
async function balancer(instances) {
  let turn = 0;
  return listening(createTcp((client) => {
    const { hostname, port } = new URL(instances[turn++ % instances.length]);
    const to = connect(Number(port), hostname);
    client.pipe(to).pipe(client);
    for (const [one, other] of [[client, to], [to, client]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  }));
}

/** The provider: whoever signs in there is who they say, with the groups that they are given here. */
async function provider(redirectUri, home) {
  const { Provider } = await import(pathToFileURL(join(nodeDir, "node_modules/oidc-provider/lib/index.js")).href);
  const groups = { joy: ["icu-nurses"], guest: ["visitors"] };
  const server = createServer((request, answer) => callback(request, answer));
  const port = await listening(server);
  const issuer = `http://127.0.0.1:${port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "vitals",
      client_secret: env.VITALS_OIDC_CLIENT_SECRET,
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [home],
      response_types: ["code"],
      grant_types: ["authorization_code"],
    }],
    pkce: { required: () => true },
    claims: { openid: ["sub", "name", "groups"] },
    conformIdTokenClaims: false,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: `Nurse ${id}`, groups: groups[id] ?? [] }) }),
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    cookies: { keys: ["of this check alone"] },
  });
  const callback = provider.callback();
  const away = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
  return { issuer, away, back: () => new Promise((resolve) => server.listen(port, "127.0.0.1", resolve)) };
}

/** Through the provider's own pages: who one is, and that we may know it. */
async function signIn(page, who) {
  await page.click("#signin-go");
  await page.fill('input[name="login"]', who);
  await page.fill('input[name="password"]', "anything");
  await page.click('button[type="submit"]');
  await page.waitForSelector('input[name="prompt"][value="consent"]', { state: "attached" });
  await page.click('button[type="submit"]');
}

async function call(base, token, method, path, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const answer = await fetch(`${base}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  return answer.json();
}

async function isLive(page) {
  await page.waitForSelector('.tile', { timeout: SOON_MS });
  await eventually("the wall to be live", async () => (await page.getAttribute("#link", "data-state")) === "live");
}

/** What another site's page can do with the browser's cookie: a form, and a request with credentials. */
async function forged(context, site, home, path) {
  const page = await context.newPage();
  await page.goto(site);
  const sent = await page.evaluate(async ([home, path]) => {
    const asked = async (options) => {
      try {
        return (await fetch(home + path, options)).status;
      } catch {
        return "unreadable";
      }
    };
    return [
      await asked({ method: "POST", credentials: "include", mode: "no-cors", headers: { "content-type": "text/plain" }, body: "{}" }),
      await asked({ method: "POST", credentials: "include", headers: { "x-csrf-token": "x" }, body: "{}" }),
      await asked({ credentials: "include" }),
    ];
  }, [home, path]);
  assert.deepEqual(sent, [0, "unreadable", "unreadable"]);
  // A form leads there, and is told so.
  const [answer] = await Promise.all([
    page.waitForNavigation(),
    page.evaluate((to) => {
      const form = Object.assign(document.createElement("form"), { method: "post", action: to });
      document.body.append(form);
      form.submit();
    }, home + path),
  ]);
  assert.ok([401, 403].includes(answer.status()), `a forged form was answered ${answer.status()}`);
  await page.close();
}

/** An `EventSource` opens, and hears what is measured. */
async function hears(page, url, measure) {
  const heard = page.evaluate((url) => new Promise((resolve) => {
    const source = new EventSource(url);
    window.isOpen = false;
    const end = (what) => { source.close(); resolve(what); };
    source.onerror = () => end("refused");
    source.onopen = () => { window.isOpen = true; };
    source.addEventListener("reading", (event) => end(JSON.parse(event.data).patientId));
  }), url);
  // Asked from here: the page's policy lets no text become a script.
  const isOpen = eventually("a stream to open", () => page.evaluate(() => window.isOpen));
  if ((await Promise.race([heard, isOpen])) === "refused") {
    isOpen.catch(() => {});
    return "refused";
  }
  await measure();
  return heard;
}

async function journey(browser, { op, home, sites, instances, one }) {
  const scope = "readings:write vitals:read alerts:read tokens:revoke";
  const token = execFileSync(vitals, ["token", "--tenant", TENANT, "--subject", "check", "--scope", scope], { env, encoding: "utf8" }).trim();
  let n = 0;
  const measure = (patientId, value) => call(home, token, "POST", "/readings", { patientId, deviceId: "watch-7", vital: "heart_rate", value, measuredAt: new Date(Date.now() - 1_000 + n++).toISOString() });
  await measure("101", 130);
  const alert = await eventually("an alert", async () => (await call(home, token, "GET", "/alerts?state=active")).items[0]);

  // Who has no role is told so, and not sent around.
  const guest = await browser.newPage();
  await guest.goto(home);
  await signIn(guest, "guest");
  await guest.waitForSelector("text=You have no role here");
  assert.match(await guest.textContent("main"), /knows you as guest, and none of your groups/);
  assert.ok(guest.url().startsWith(`${home}/auth/callback`));
  await guest.close();

  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  const broken = [];
  page.on("console", (message) => { if (/Content.Security.Policy/i.test(message.text())) broken.push(message.text()); });
  await page.goto(home);
  await page.waitForSelector("#signin-go:visible");
  assert.equal(await page.isVisible("#token"), false, "a token is the second choice");
  await page.screenshot({ path: join(scratch, "1-sign-in.png") });
  await signIn(page, "joy");
  await isLive(page);
  assert.equal(page.url(), `${home}/`);
  assert.equal(await page.textContent("#whoami"), "Nurse joy");
  await page.screenshot({ path: join(scratch, "2-wall.png") });
  const readable = await page.evaluate(() => [document.cookie, JSON.stringify({ ...localStorage, ...sessionStorage })].join(" "));
  assert.doesNotMatch(readable, /vitals_session|eyJ/, "no script can read the session");

  // Other sites get nothing, whether or not they are of the same site as browsers see it.
  for (const site of Object.values(sites)) await forged(context, site, home, `/api/v1/alerts/${alert.id}/ack`);
  assert.equal((await call(home, token, "GET", `/alerts/${alert.id}`)).acknowledged, null);

  await page.click(".tile .alerts button");
  await page.click("#ack-send");
  const answered = await eventually("the acknowledgement", async () => (await call(home, token, "GET", `/alerts/${alert.id}`)).acknowledged);
  assert.deepEqual([answered.by, answered.subject, answered.via], ["Nurse joy", "joy", "token"]);
  await page.reload();
  await isLive(page);

  assert.equal(await hears(page, "/api/v1/stream?types=reading", () => measure("102", 80)), "102");
  const elsewhere = await context.newPage();
  await elsewhere.goto(sites.named);
  const ticket = await elsewhere.evaluate(async ([home, token]) => {
    const answer = await fetch(`${home}/api/v1/stream/tickets`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
    return (await answer.json()).ticket;
  }, [home, token]);
  assert.equal(await hears(elsewhere, `${home}/api/v1/stream?ticket=${ticket}`, () => measure("103", 80)), "103");
  assert.equal(await hears(elsewhere, `${home}/api/v1/stream?ticket=${ticket}x`, () => measure("103", 81)), "refused");
  await elsewhere.close();

  // An instance goes, and the provider: who is signed in notices nothing that lasts.
  instances.shift();
  one.child.removeAllListeners("exit");
  const gone = new Promise((resolve) => one.child.once("exit", resolve));
  one.child.once("exit", () => children.delete(one.child));
  one.child.kill("SIGTERM");
  await gone;
  await op.away();
  await isLive(page);
  await page.reload();
  await isLive(page);
  const late = await (await browser.newContext()).newPage();
  await late.goto(home);
  await late.click("#signin-go");
  await late.waitForSelector("text=The identity provider does not answer");
  await late.screenshot({ path: join(scratch, "3-provider-away.png") });
  await op.back();

  await call(home, token, "POST", "/tokens/revoke", { sub: "joy", reason: "the check" });
  await page.waitForSelector("#signin-error:visible", { timeout: SOON_MS });
  assert.match(await page.textContent("#signin-error"), /was revoked/);
  assert.equal(await page.isVisible("#ward"), false, "what is old is not shown");
  await page.screenshot({ path: join(scratch, "4-ended.png") });
  await page.click("#signin-go");
  await isLive(page);

  await page.click("#signout");
  await page.waitForURL(`${op.issuer}/**`);
  await page.screenshot({ path: join(scratch, "5-signed-out.png") });
  const answer = await page.context().request.get(`${home}/api/v1/patients`);
  assert.equal(answer.status(), 401);
  await page.goto(home);
  await page.waitForSelector("#signin-go:visible");
  assert.deepEqual(broken, []);
}

async function main() {
  const instances = [];
  const home = `http://127.0.0.1:${await balancer(instances)}`;
  const op = await provider(`${home}/auth/callback`, `${home}/`);
  const map = join(scratch, "roles.toml");
  writeFileSync(map, `claims = ["groups"]\ntenant = "${TENANT}"\n[[grant]]\nvalue = "icu-nurses"\nrole = "nurse"\n`);
  const port = await listening(createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html><body>a site")));
  const sites = { named: `http://localhost:${port}`, sibling: `http://127.0.0.1:${port}` };
  const serve = () => started("serve", "--listen", "127.0.0.1:0", "--oidc-issuer", op.issuer, "--oidc-client-id", "vitals", "--public-url", home, "--jwt-roles", map, "--cors-origin", sites.named);
  const one = await serve(), other = await serve();
  instances.push(one.base, other.base);
  const browser = await chromium.launch({
    executablePath: browserPath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  try {
    await journey(browser, { op, home, sites, instances, one });
  } finally {
    await browser.close();
    for (const child of children) child.kill("SIGTERM");
    for (const server of servers) server.close();
  }
  console.log("signin     a nurse signs in by a provider, is live on two instances, acknowledges, and is out when she is");
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});

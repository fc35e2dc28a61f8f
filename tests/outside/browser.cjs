// Looks at the pages of a running vitals in a real browser: nothing is wider than its screen,
// whom nobody has answered comes first, what is simulated says so, and pages of other sites
// call only where they are named. Usage: node browser.cjs VITALS SCRATCH BROWSER
const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const { createServer } = require("node:http");
const { join } = require("node:path");
const { openSync } = require("node:fs");
const { chromium } = require("playwright-core");

const [vitals, scratch, browserPath] = process.argv.slice(2);
const SOON_MS = 20_000;
const PHONE = { width: 390, height: 844 };
const DESK = { width: 1280, height: 800 };
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith("VITALS_") && key !== "DATABASE_URL"));
env.VITALS_DATA_DIR = join(scratch, "data");

const children = new Set();

/** A program that says `ready http://…`, and that address. */
function started(...options) {
  const child = spawn(vitals, options, { env, stdio: ["ignore", "pipe", openSync(join(scratch, "vitals.log"), "a")] });
  children.add(child);
  return new Promise((resolve, reject) => {
    let said = "";
    child.stdout.on("data", (part) => {
      said += part;
      const ready = /^ready (\S+)$/m.exec(said);
      if (ready) resolve({ child, base: ready[1], said });
    });
    child.on("exit", (status) => reject(new Error(`vitals ended with ${status}: ${said}`)));
  });
}

async function stopped({ child }) {
  child.removeAllListeners("exit");
  children.delete(child);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await ended;
}

async function call(base, token, method, path, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const answer = await fetch(`${base}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  return answer.json();
}

async function eventually(what, look) {
  const until = Date.now() + SOON_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < until, `waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The page, with every fold of it open, is no wider than its screen. */
async function fits(page, what) {
  await page.evaluate(() => { for (const fold of document.querySelectorAll("details")) fold.open = true; });
  const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= screen, `${what} is ${wide} px wide on a screen of ${screen}`);
}

async function docs(browser, base) {
  for (const viewport of [PHONE, DESK]) {
    const page = await browser.newPage({ viewport });
    await page.goto(`${base}/docs`);
    await page.waitForSelector("main details");
    await fits(page, "/docs");
    const text = await page.evaluate(() => document.querySelector("main").textContent);
    // What stands in a shape is JSON to the letter.
    const prose = await page.$$eval("main p, main dd, main summary", (parts) => parts.map((part) => part.textContent).join("\n"));
    assert.ok(!prose.includes("`"), "/docs shows bare backticks");
    for (const shown of ["invalid_cursor", "\"measuredAt\": \"2025-10-20", "whsec_", "Shape: State"]) {
      assert.ok(text.includes(shown), `/docs does not show ${shown}`);
    }
    await page.close();
  }
}

async function ward(browser, base, token) {
  const reading = (patientId, ago) => ({ patientId, deviceId: "watch-7", vital: "heart_rate", value: 130, measuredAt: new Date(Date.now() - ago).toISOString() });
  await call(base, token, "POST", "/readings", [reading("answered", 60_000), reading("waiting", 30_000), { ...reading("well", 1_000), value: 80 }]);
  const alerts = await eventually("two alerts", async () => {
    const { items } = await call(base, token, "GET", "/alerts?state=active");
    return items.length === 2 && items;
  });
  const { id } = alerts.find((alert) => alert.patientId === "answered");
  await call(base, token, "POST", `/alerts/${id}/ack`, { by: "Nurse Joy" });
  for (const viewport of [PHONE, DESK]) {
    const page = await browser.newPage({ viewport });
    await page.goto(`${base}/`);
    await fits(page, "the sign-in");
    assert.match(await page.textContent("#signin"), /vitals token --tenant/);
    await page.goto(`${base}/#token=${token}`);
    const order = () => page.$$eval(".tile .id", (ids) => ids.map((id) => id.textContent).join(" "));
    await eventually("whom nobody has answered to come first", async () => (await order()) === "waiting answered well");
    assert.match(await page.textContent("#counts"), /1 unacknowledged2 active alerts3 patients/);
    await fits(page, "the ward");
    assert.equal(await page.isVisible("#simulated"), false);
    await page.click("text=What the signs mean");
    assert.ok(await page.isVisible("#legend >> text=Somebody has to go now"));
    await page.close();
  }
}

/** What a page of another site gets, at an origin of its own. */
async function asked(browser, origin, base, token) {
  const page = await browser.newPage();
  await page.goto(origin);
  const found = await page.evaluate(async ([base, token]) => {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    try {
      const answer = await fetch(`${base}/api/v1/patients`, { headers });
      const sent = await fetch(`${base}/api/v1/readings`, { method: "POST", headers, body: "[]" });
      return [answer.status, sent.status, !!answer.headers.get("ratelimit-remaining"), !!answer.headers.get("etag")];
    } catch (error) {
      return String(error);
    }
  }, [base, token]);
  await page.close();
  return found;
}

async function main() {
  const site = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html><title>an app</title>"));
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const [named, other] = ["127.0.0.1", "localhost"].map((host) => `http://${host}:${site.address().port}`);
  const browser = await chromium.launch({
    executablePath: browserPath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  try {
    const server = await started("serve", "--listen", "127.0.0.1:0", "--cors-origin", named);
    const scope = "readings:write vitals:read alerts:read alerts:ack";
    const token = execFileSync(vitals, ["token", "--tenant", "outside", "--subject", "check", "--scope", scope], { env, encoding: "utf8" }).trim();
    await docs(browser, server.base);
    await ward(browser, server.base, token);
    assert.deepEqual(await asked(browser, named, server.base, token), [200, 422, true, true]);
    assert.match(await asked(browser, other, server.base, token), /Failed to fetch/);
    await stopped(server);
    const demo = await started("demo", "--listen", "127.0.0.1:0");
    const page = await browser.newPage({ viewport: PHONE });
    await page.goto(/http\S+#token=\S+/.exec(demo.said)[0]);
    await page.waitForSelector(".tile");
    assert.ok(await page.isVisible("#simulated >> text=Simulated patients"));
    await fits(page, "the demo");
    await stopped(demo);
  } finally {
    for (const child of children) child.kill("SIGTERM");
    await browser.close();
    site.close();
  }
  console.log("browser    pages fit a phone, say what they show, and are called by whom they may be");
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});

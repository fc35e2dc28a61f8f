// Verifies with npm's "standardwebhooks" (v1) and node's own Ed25519 (v1a) what
// webhooks.py received. Usage: node webhooks.cjs deliveries.json
const { createPublicKey, verify: verifyBytes } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { Webhook } = require("standardwebhooks");

const { vector, deliveries } = JSON.parse(readFileSync(process.argv[2], "utf8"));

function same(expected, found, what) {
  if (expected !== found) throw new Error(`${what}: ${found} instead of ${expected}`);
}

function refused(act, what) {
  try {
    act();
  } catch {
    return;
  }
  throw new Error(`${what} was believed`);
}

// The 32 bytes of a public key as the DER that node reads.
function publicKey(text) {
  const raw = Buffer.from(text.replace("whpk_", ""), "base64");
  const head = Buffer.from("302a300506032b6570032100", "hex");
  return createPublicKey({ key: Buffer.concat([head, raw]), format: "der", type: "spki" });
}

function verifiesAsymmetric(key, headers, body) {
  const signed = Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`);
  return headers["webhook-signature"]
    .split(" ")
    .filter((one) => one.startsWith("v1a,"))
    .some((one) => verifyBytes(null, signed, publicKey(key), Buffer.from(one.slice(4), "base64")));
}

const at = new Date(vector.timestamp * 1000);
same(vector.signature, new Webhook(vector.secret).sign(vector.id, at, vector.body), "the vector");

const kinds = { v1: 0, v1a: 0 };
for (const { kind, headers, body: encoded, secrets = [], publicKeys = [] } of deliveries) {
  const body = Buffer.from(encoded, "base64").toString();
  for (const secret of secrets) {
    new Webhook(secret).verify(body, headers);
    refused(() => new Webhook(secret).verify(`${body} `, headers), `${kind}, changed,`);
    kinds.v1 += 1;
  }
  for (const key of publicKeys) {
    same(true, verifiesAsymmetric(key, headers, body), `${kind} by Ed25519`);
    same(false, verifiesAsymmetric(key, headers, `${body} `), `${kind}, changed, by Ed25519`);
    kinds.v1a += 1;
  }
}
if (kinds.v1 < 5 || kinds.v1a < 2) throw new Error(`too few: ${JSON.stringify(kinds)}`);
console.log(`node       standardwebhooks verified the vector and ${kinds.v1} signatures, Ed25519 ${kinds.v1a}`);

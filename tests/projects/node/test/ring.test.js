import assert from "node:assert/strict";
import { test } from "node:test";
import { Ring } from "../lib/ring.js";

test("keeps the newest entries in order", () => {
  const ring = new Ring(3);
  for (const n of [1, 2, 3, 4, 5]) ring.push(n);
  assert.deepEqual([...ring], [3, 4, 5]);
  assert.equal(ring.length, 3);
});

test("refuses a capacity that is none", () => {
  assert.throws(() => new Ring(0), RangeError);
  assert.throws(() => new Ring(1.5), RangeError);
});

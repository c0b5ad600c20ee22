import assert from "node:assert/strict";
import { join } from "node:path";
import { FormatError } from "../../core/errors.ts";
import {
  calibrationPlace,
  type Measurement,
  measurementFor,
  readCalibration,
  storeMeasurement,
} from "./calibration.ts";

function measurement(ranks: number, flopsPerSecond = 1e9): Measurement {
  return { ranks, threads: 1, measured: "2026-01-02T03:04:05Z", costs: { flopsPerSecond, gemmRates: [[1, 1e9]] } };
}

Deno.test("calibrationPlace() is a file of this host and its cores in the user's cache folder", () => {
  const { host, cores, path } = calibrationPlace({ XDG_CACHE_HOME: "/cache", HOME: "/home/me" });
  assert.match(path!, /^\/cache\/shardwise\/costs-.*\.json$/);
  assert.ok(path!.includes(String(cores)) && host === Deno.hostname());
  assert.match(calibrationPlace({ HOME: "/home/me" }).path!, /^\/home\/me\/\.cache\/shardwise\//);
  assert.match(calibrationPlace({ SHARDWISE_CACHE: "/c", HOME: "/home/me" }).path!, /^\/c\/costs-/);
  assert.equal(calibrationPlace({}).path, undefined);
});

Deno.test("storeMeasurement() keeps one measurement a number of ranks, the last", () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-test-" });
  try {
    const place = calibrationPlace({ SHARDWISE_CACHE: join(folder, "new") });
    assert.equal(readCalibration(place), undefined);
    for (const m of [measurement(4), measurement(2), measurement(4, 5e9)]) storeMeasurement(place, m);
    const found = readCalibration(place)!;
    assert.deepEqual(found.measurements, [measurement(2), measurement(4, 5e9)]);
    assert.deepEqual([1, 3, 4, 9].map((n) => measurementFor(found, n)?.ranks), [2, 4, 4, 4]);
    assert.equal(measurementFor(undefined, 2), undefined);
    assert.deepEqual([...Deno.readDirSync(join(folder, "new"))].length, 1);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("readCalibration() refuses a broken file and names it, and storeMeasurement() replaces it", () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-test-" });
  try {
    const place = calibrationPlace({ SHARDWISE_CACHE: folder });
    for (const text of ["{", "{}", '{"version":1,"measurements":[{"ranks":2,"costs":{"callSeconds":"fast"}}]}']) {
      Deno.writeTextFileSync(place.path!, text);
      assert.throws(
        () => readCalibration(place),
        (e) => e instanceof FormatError && e.message.includes(place.path!) && e.hint!.includes("calibrate"),
      );
    }
    storeMeasurement(place, measurement(2));
    assert.deepEqual(readCalibration(place)?.measurements, [measurement(2)]);
    assert.throws(() => storeMeasurement({ ...place, path: undefined }, measurement(2)), FormatError);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

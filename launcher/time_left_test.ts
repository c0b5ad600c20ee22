import assert from "node:assert/strict";
import { graceWithin } from "./time_left.ts";

const END = { SLURM_JOB_END_TIME: "1000" };

Deno.test("graceWithin() leaves the grace period alone while the job's end is far, or unknown", () => {
  assert.equal(graceWithin(30_000, END, 900_000), 30_000);
  assert.equal(graceWithin(30_000, {}, 900_000), 30_000);
  assert.equal(graceWithin(30_000, { SLURM_JOB_END_TIME: "" }, 900_000), 30_000);
  assert.equal(graceWithin(30_000, { SLURM_JOB_END_TIME: "Unknown" }, 900_000), 30_000);
});

Deno.test("graceWithin() ends two seconds before Slurm kills, 30 s after the time limit", () => {
  assert.equal(graceWithin(30_000, END, 1_000_000), 28_000);
  assert.equal(graceWithin(10_000, END, 1_000_000), 10_000);
  assert.equal(graceWithin(300_000, END, 940_000), 88_000);
  assert.equal(graceWithin(30_000, END, 1_029_000), 0);
});

Deno.test("graceWithin() takes no notice of an end that the job has outlived", () => {
  assert.equal(graceWithin(30_000, END, 1_031_000), 30_000);
});

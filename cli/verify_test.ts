import assert from "node:assert/strict";
import type { Against, VerifyCase } from "./job.ts";
import { judge } from "./ranks/verify.ts";
import { verifyTable } from "./verify.ts";

Deno.test("verifyTable() has a row for each case and size, its outputs folded to the worst, and all problems", () => {
  const outputs = {
    kind: "outputs",
    name: "m one",
    model: "m",
    inputs: "",
    expected: "",
    atol: 1e-4,
    rtol: 1e-5,
  } as const;
  const greedy: VerifyCase = { kind: "greedy", name: "m greedy", model: "m", prompt: [1], expected: [1, 2] };
  const output = (name: string, maxAbs: number) => ({ name, maxAbs, maxRel: maxAbs, pass: maxAbs < 1 });
  const text = verifyTable([outputs, greedy], [
    {
      name: "m one",
      ranks: 1,
      pass: true,
      ms: 1,
      outputs: [output("logits", 0), output("past.0.k", 1e-6), output("past.1.k", 2e-6)],
    },
    { name: "m greedy", ranks: 1, pass: false, ms: 1, outputs: [], problem: "token 2 of 2 is 9, expected 2" },
    {
      name: "m one",
      ranks: 2,
      pass: false,
      ms: 1,
      outputs: [{ ...output("logits", NaN), problem: "is f32[1], expected f32[2]" }],
    },
  ], [{ name: "x greedy", reason: "not there yet" }]);
  const rows = text.split("\n").map((line) => line.split("│").map((cell) => cell.trim()).filter((cell) => cell !== ""));
  assert.deepEqual(rows.filter((row) => row.length > 0 && !/[─┌└├]/.test(row[0]!)), [
    ["case", "ranks", "output", "max abs", "max rel", "tolerance", "result"],
    ["m one", "1", "logits", "0", "0", "0.0001 + 0.00001·|x|", "pass"],
    ["past.*.k (2)", "2.0e-6", "2.0e-6"],
    ["m one", "2", "logits", "–", "–", "0.0001 + 0.00001·|x|", "FAIL"],
    ["logits: is f32[1], expected f32[2]"],
    ["m greedy", "1", "2 tokens", "equal", "FAIL"],
    ["token 2 of 2 is 9, expected 2"],
    ["x greedy", "skipped: not there yet"],
  ]);
});

Deno.test("verifyTable() wraps long messages", () => {
  const c: VerifyCase = { kind: "greedy", name: "m greedy", model: "m", prompt: [1], expected: [1] };
  const problem = `${"word ".repeat(60)}\n  hint: ${"x".repeat(150)} y`;
  const text = verifyTable([c], [{ name: "m greedy", ranks: 1, pass: false, outputs: [], problem, ms: 1 }], []);
  assert.equal(text.match(/word/g)!.length, 60);
  assert.match(text, /│ +hint:/);
  assert.ok(Math.max(...text.split("\n").map((line) => line.length)) < 170);
});

Deno.test("judge() says of a case that differs from its reference whether the split is to blame", async () => {
  const c: VerifyCase = { kind: "greedy", name: "m greedy", model: "m", prompt: [1], expected: [1, 2] };
  const verdictOf = async (got: number[], unsplit: number[], against: Against = "reference") => {
    const give = () => Promise.resolve(unsplit);
    const { pass, verdict } = await judge(got, { c, against, ranks: 2, unsplit: { give, giveRounded: give } });
    return [pass, verdict];
  };
  assert.deepEqual(await verdictOf([1, 2], [1, 3]), [true, undefined]);
  assert.deepEqual(await verdictOf([1, 3], [1, 3], "unsharded"), [true, undefined]);
  assert.deepEqual(await verdictOf([1, 2], [1, 3], "unsharded"), [false, undefined]);
  assert.match(`${await verdictOf([1, 3], [1, 3])}`, /false,.* gives the same: the reference is of another runtime/);
  assert.match(`${await verdictOf([1, 3], [1, 2])}`, /false,.* gives the reference: splitting made the difference/);
  assert.match(`${await verdictOf([1, 3], [1, 4])}`, /false,.* gives neither/);
});

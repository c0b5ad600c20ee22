/** `shardwise trace`: the file for Perfetto, and the page. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { ChromeTrace } from "../../src/trace/chrome.ts";
import { browserOrSkip, openPage } from "../support/browser.ts";
import { shardwise, testModel } from "../support/cli.ts";

const RANKS = 3, STEPS = 5;

Deno.test("shardwise trace records every rank on one clock, with spans that nest and collectives that meet", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-trace-" });
  try {
    const out = join(folder, "trace.json"), html = join(folder, "trace.html");
    const { code, stdout, stderr } = await shardwise(
      "trace",
      testModel("llama"),
      "--nproc",
      String(RANKS),
      "--steps",
      String(STEPS),
      "--out",
      out,
      "--html",
      html,
    );
    assert.equal(code, 0, stderr);
    assert.equal(stdout.match(/^rank \d: [\d.]+ ms a step, of which .* ms compute/gm)?.length, RANKS);

    const { traceEvents } = JSON.parse(Deno.readTextFileSync(out)) as ChromeTrace;
    const events = traceEvents.filter((e) => e.ph === "X").map((e) => ({ ...e, end: e.ts! + e.dur! }));
    const byRank = Map.groupBy(events, (e) => e.pid);
    assert.deepEqual([...byRank.keys()].sort(), Array.from({ length: RANKS }, (_, r) => r));
    for (const spans of byRank.values()) {
      const steps = spans.filter((e) => e.cat === "step"), parts = spans.filter((e) => e.cat !== "step");
      assert.equal(steps.length, STEPS);
      for (const part of parts) {
        const step = steps[part.args!.step as number]!;
        assert.ok(step.ts! <= part.ts! && part.end <= step.end, `${part.name} lies in its step`);
      }
      for (const list of [steps, parts]) {
        list.slice(1).forEach((e, i) =>
          assert.ok(list[i]!.end <= e.ts! + 0.002, `${e.name} begins after what is before it`)
        );
      }
    }
    // The k-th collective of each rank is one meeting: there is a moment at which all are in it.
    const collectives = [...byRank.values()].map((spans) => spans.filter((e) => e.cat === "collective"));
    assert.ok(collectives[0]!.length >= STEPS * 5);
    collectives[0]!.forEach((first, k) => {
      const all = collectives.map((list) => list[k]!);
      assert.deepEqual(new Set(all.map((e) => e.args!.part)), new Set([first.args!.part]));
      const lastBegin = Math.max(...all.map((e) => e.ts!)), firstEnd = Math.min(...all.map((e) => e.end));
      assert.ok(lastBegin <= firstEnd + 0.002, `collective ${k} of all ranks: ${JSON.stringify(all)}`);
    });

    const browser = await browserOrSkip();
    if (browser === undefined) return;
    await using page = await openPage(browser, html);
    assert.equal(await page.evaluate("document.querySelectorAll('.numbers tbody tr').length"), RANKS);
    const boxes = await page.evaluate<number>("document.querySelectorAll('.flame button').length");
    assert.ok(boxes > 6);
    // A box that is chosen fills the width.
    await page.evaluate("document.querySelector('.flame button.role-column').click()");
    const widths = "[...document.querySelectorAll('.flame-row button')].slice(0, 2).map((b) => b.style.width)";
    assert.deepEqual(await page.evaluate(widths), ["100%", "100%"]);
    assert.deepEqual(page.errors, []);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("shardwise trace says what is missing before a rank starts", async () => {
  const nowhere = await shardwise("trace", testModel("llama"));
  assert.equal(nowhere.code, 64);
  assert.match(nowhere.stderr, /neither --out nor --html is given/);
});

Deno.test("shardwise trace records the steps of an encoder-decoder's decoder", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-trace-" });
  try {
    const out = join(folder, "trace.json");
    const { code, stderr } = await shardwise("trace", testModel("t5"), "-n", "2", "--steps", "3", "--out", out);
    assert.equal(code, 0, stderr);
    const { traceEvents } = JSON.parse(Deno.readTextFileSync(out)) as ChromeTrace;
    const steps = Map.groupBy(traceEvents.filter((e) => e.cat === "step"), (e) => e.pid);
    assert.deepEqual([...steps.values()].map((list) => list.length), [3, 3]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

/** The page of a plan: one file, and what it does in a browser. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Group, PlanView, Row } from "../../src/report/view_data.ts";
import { planPage } from "../../src/plan_page.ts";
import { browserOrSkip, openPage } from "../support/browser.ts";
import { REPOSITORY } from "../support/shared.ts";

const page = await planPage(join(REPOSITORY, "tests/data/models/gpt-neox/model.onnx"), { ranks: 4 });
const data = JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)![1]!) as PlanView;

function* rowsOf(rows: readonly Row[], times = 1): Iterable<[Row, number]> {
  for (const row of rows) {
    yield [row, times];
    if (row.kind === "group") yield* rowsOf(row.rows, times * row.names.length);
  }
}

Deno.test("the page of a plan asks for nothing from anywhere", () => {
  assert.match(page, /default-src 'none'/);
  assert.doesNotMatch(page, /<link|<img|@import|\bsrc=|url\(|fetch\(|XMLHttpRequest/);
  assert.equal(page.match(/<\/script>/g)!.length, 2);
});

Deno.test("the page's timeline holds every call and every collective once, and its tree the same, folded", () => {
  const collectives = data.timeline.filter((m) => m.collective !== undefined);
  const marks = [...rowsOf(data.rows)].flatMap(([row, times]) => (row.kind === "op" ? row.marks.map(() => times) : []));
  assert.ok(collectives.length > 0);
  assert.equal(marks.reduce((a, b) => a + b, 0), collectives.length);
  const ops = [...rowsOf(data.rows)].reduce((n, [row, times]) => n + (row.kind === "op" ? times : 0), 0);
  assert.equal(ops, data.timeline.length - collectives.length);
  assert.equal(data.memory.length, 4);
});

Deno.test("the page of a plan shows its tree, and is used by keyboard alone", async () => {
  const browser = await browserOrSkip();
  if (browser === undefined) return;
  const file = Deno.makeTempFileSync({ prefix: "shardwise-page-", suffix: ".html" });
  try {
    Deno.writeTextFileSync(file, page);
    await using tab = await openPage(browser, file);
    assert.equal(await tab.evaluate("document.querySelector('h1').textContent"), `${data.title} on 4 ranks`);
    assert.equal(await tab.evaluate("document.querySelectorAll('.bars .stack').length"), 4);
    assert.equal(await tab.evaluate("document.querySelector('canvas').width > 300"), true);

    // Search leads to a row, whose details are shown; the arrows go on from there.
    const selected = "document.querySelector('[role=treeitem][aria-selected=true] .label')?.textContent";
    await tab.press("/");
    for (const key of "dense_4h") await tab.press(key);
    assert.match(await tab.evaluate<string>(selected), /dense_4h_to_h/);
    assert.match(await tab.evaluate<string>("document.querySelector('.details').textContent"), /row-parallel/);
    await tab.press("ArrowDown");
    assert.equal(await tab.evaluate("document.activeElement.getAttribute('role')"), "treeitem");
    await tab.press("Home");
    const [first] = data.rows as [Group];
    assert.equal(await tab.evaluate(selected), first.label);
    const open = "document.activeElement.getAttribute('aria-expanded')";
    const before = await tab.evaluate<string>(open);
    await tab.press("Enter");
    assert.notEqual(await tab.evaluate(open), before);
    assert.deepEqual(tab.errors, []);
  } finally {
    Deno.removeSync(file);
  }
});

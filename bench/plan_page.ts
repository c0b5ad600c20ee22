/**
 * How fast the page of `shardwise plan --html` is, in a real Chromium:
 *
 *     deno run -A bench/plan_page.ts [--model llama|gpt2|llama-70b] [--layers 80] [--ranks 4] [--rounds 5] [--browser chromium] [--shots FOLDER] [--markdown]
 *
 * Of an action counts the time from the event to the end of the frame that shows what it did; a frame of a screen is up to 17 ms of it.
 * `--shots` leaves screenshots, light and dark.
 */
import { parseArgs } from "node:util";
import { planPage } from "../src/plan_page.ts";
import { openPage, type Page } from "./models/chromium.ts";
import { writeHollowModel } from "./models/hollow_model.ts";
import { spreadOver } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { milliseconds, printTable } from "./models/table.ts";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "llama" },
    layers: { type: "string", default: "80" },
    ranks: { type: "string", default: "4" },
    rounds: { type: "string", default: "5" },
    browser: { type: "string", default: "chromium" },
    shots: { type: "string" },
    markdown: { type: "boolean", default: false },
  },
});

/** From the start of the navigation to the first text or picture on the screen. */
const FIRST_PAINT = `new Promise((resolve) => new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (entry.name === "first-contentful-paint") resolve(entry.startTime);
}).observe({ type: "paint", buffered: true }))`;

/** Ends when the frame that shows the effect of `action` has been painted; the time in ms. */
const FRAME = `(action) => new Promise((resolve) => {
  const began = performance.now(), { port1, port2 } = new MessageChannel();
  port1.onmessage = () => resolve(performance.now() - began);
  action();
  requestAnimationFrame(() => port2.postMessage(0));
})`;
const TYPED = (text: string) =>
  `(${FRAME})(() => {
    const box = document.querySelector("input[type=search]");
    box.value = ${JSON.stringify(text)};
    box.dispatchEvent(new InputEvent("input"));
  })`;
const CLICKED = (button: string) =>
  `(${FRAME})(() => [...document.querySelectorAll("button")].find((b) => b.textContent === "${button}").click())`;
const KEY = (row: string, key: string) =>
  `(${FRAME})(() => {
    const row = document.querySelector(${JSON.stringify(row)});
    row.click();
    row.dispatchEvent(new KeyboardEvent("keydown", { key: "${key}", bubbles: true }));
  })`;

/** What a user does, in this order, by what a table calls it. */
const ACTIONS: readonly (readonly [string, string])[] = [
  ["fold a row", KEY(".row.group[aria-expanded=true]", "ArrowLeft")],
  ["unfold a row", KEY(".row.group[aria-expanded=false]", "ArrowRight")],
  ["unfold all", CLICKED("Unfold all")],
  ["fold all", CLICKED("Fold all")],
  ["search, first letter", TYPED("m")],
  ["search, second letter", TYPED("ml")],
  ["search, a word", TYPED("mlp")],
  ["search, nothing", TYPED("")],
];

await compare();

async function compare(): Promise<void> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-plan-page-" });
  try {
    const path = `${folder}/plan.html`;
    const model = writeHollowModel(folder, options.model, Number(options.layers));
    Deno.writeTextFileSync(
      path,
      await planPage(model, { ranks: Number(options.ranks), config: { calibrated: false } }),
    );
    const empty = `${folder}/empty.html`;
    Deno.writeTextFileSync(empty, "<!doctype html><title>empty</title><body>empty");
    await using page = await openPage(options.browser, { width: 1440, height: 900 });
    // A browser that runs already, as a user's does.
    await page.goTo(`file://${path}`);
    const found = new Map<string, number[]>();
    const take = (name: string, ms: unknown) => found.set(name, [...found.get(name) ?? [], Number(ms)]);
    for (let round = 0; round < Number(options.rounds); round++) {
      await page.goTo(`file://${empty}`);
      take("first paint of an empty page", await page.evaluate(FIRST_PAINT));
      await page.goTo(`file://${path}`);
      take("first paint", await page.evaluate(FIRST_PAINT));
      for (const [name, action] of ACTIONS) take(name, await page.evaluate(action));
    }
    const rows = [...found].map(([name, times]) => {
      const { median, least, largest } = spreadOver(times);
      return [name, milliseconds(median), `${milliseconds(least)}–${milliseconds(largest)}`];
    });
    print(printTable({ head: ["ms", "median", "least–largest"], rows }, options.markdown));
    const size = (Deno.statSync(path).size / 1e3).toFixed(0);
    const { product } = await page.call("Browser.getVersion");
    print(`\n${options.model}, ${options.layers} layers, ${options.ranks} ranks: a page of ${size} kB; ${product}.`);
    print(`${describeMachine()}; ${new Date().toISOString().slice(0, 10)}. ${options.rounds} rounds.`);
    if (options.shots !== undefined) await shoot(page, `file://${path}`, options.shots);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

async function shoot(page: Page, url: string, folder: string): Promise<void> {
  Deno.mkdirSync(folder, { recursive: true });
  for (const scheme of ["light", "dark"]) {
    await page.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
    for (const [name, query] of [["page", ""], ["search", "down_proj"]] as const) {
      await page.goTo(url);
      await page.evaluate(TYPED(query));
      const { data } = await page.call("Page.captureScreenshot", { format: "png" });
      Deno.writeFileSync(`${folder}/${name}-${scheme}.png`, Uint8Array.fromBase64(data as string));
    }
  }
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

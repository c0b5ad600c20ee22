/**
 * What forwarding costs: 2 ranks print lines as fast as they can, first into a file, then through the launcher into a file.
 * `deno run -A bench/launch_output.ts [LINES] [WIDTH] [ROUNDS]`. Prints medians.
 */

const ROOT = new URL("..", import.meta.url).pathname;
const [lines = 200_000, width = 80, rounds = 5] = Deno.args.map(Number);
const program = ["sh", "-c", `yes ${"x".repeat(width - 1)} | head -n ${lines}`];
const out = await Deno.makeTempFile();
const plain: number[] = [], forwarded: number[] = [];
for (let round = 0; round < rounds; round++) {
  const quoted = program.map((word) => `'${word}'`).join(" ");
  plain.push(await time(`${quoted} > ${out}.0 & ${quoted} > ${out}.1; wait`));
  forwarded.push(
    await time(`'${Deno.execPath()}' run -A '${ROOT}launcher/main.ts' --nproc 2 --exec ${quoted} > ${out}`),
  );
}
const count = (await Deno.readTextFile(out)).split("\n").length - 1;
if (count !== 2 * lines) throw new Error(`expected ${2 * lines} lines, found ${count}`);
for (const path of [out, `${out}.0`, `${out}.1`]) await Deno.remove(path);
const [a, b] = [median(plain), median(forwarded)];
Deno.stdout.writeSync(
  new TextEncoder().encode(
    `2 x ${lines} lines of ${width} bytes: into files ${a} ms; through the launcher ${b} ms, ${
      Math.round(2 * lines / b)
    } thousand lines/s\n`,
  ),
);

async function time(script: string): Promise<number> {
  const begun = performance.now();
  const { code } = await new Deno.Command("sh", { args: ["-c", script] }).output();
  if (code !== 0) throw new Error(`the job ended with ${code}`);
  return Math.round(performance.now() - begun);
}

function median(values: number[]): number {
  return values.sort((x, y) => x - y)[Math.floor(values.length / 2)]!;
}

/** A report as one HTML file: a viewer bundled by esbuild, its style and its data, and nothing from anywhere else. */
import { fileURLToPath } from "node:url";

/** The viewers, by what they show. */
const VIEWERS = { plan: "./viewer/plan_main.ts", trace: "./viewer/trace_main.ts" } as const;

/** What goes into a report. */
export interface Report {
  readonly viewer: keyof typeof VIEWERS;
  /** Of the page. */
  readonly title: string;
  /** What the viewer reads with `pageData`. */
  readonly data: unknown;
}

/** The text of the file. It loads nothing: a policy in it forbids all requests. */
export async function reportHtml({ viewer, title, data }: Report): Promise<string> {
  const script = await bundle(VIEWERS[viewer]);
  const style = Deno.readTextFileSync(new URL("./viewer/style.css", import.meta.url));
  return [
    "<!doctype html>",
    '<html lang="en">',
    "<head>",
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">`,
    `<title>${escapeText(title)}</title>`,
    `<style>${style}</style>`,
    "</head>",
    "<body>",
    "<noscript>This report draws itself with the script in it; allow scripts to see it.</noscript>",
    `<script type="application/json" id="data">${scriptJson(data)}</script>`,
    `<script>${script.replaceAll("</script", "<\\/script")}</script>`,
    "</body>",
    "</html>",
    "",
  ].join("\n");
}

/** JSON that cannot end the script element it stands in, nor begin a comment. */
export function scriptJson(data: unknown): string {
  return JSON.stringify(data).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll(
    "\u2029",
    "\\u2029",
  );
}

async function bundle(entry: string): Promise<string> {
  const esbuild = await import("esbuild");
  try {
    const { outputFiles } = await esbuild.build({
      entryPoints: [fileURLToPath(new URL(entry, import.meta.url))],
      bundle: true,
      write: false,
      minify: true,
      format: "iife",
      platform: "browser",
      target: "es2022",
      charset: "utf8",
      logLevel: "silent",
    });
    return outputFiles[0]!.text.trimEnd();
  } finally {
    await esbuild.stop();
  }
}

function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

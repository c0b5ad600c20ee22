/** NVIDIA's libraries and headers from its Python packages, in a cache; for tests that need no GPU. */

/** Packages, about 800 MB together. */
const PACKAGES = ["nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-nccl-cu13", "nvidia-cuda-runtime"];

/** The folder that stands for `site-packages`, or why there is none. */
export async function wheels(): Promise<{ readonly folder: string } | { readonly missing: string }> {
  const told = Deno.env.get("SHARDWISE_TEST_WHEELS");
  if (told) return { folder: told };
  if (Deno.env.get("SHARDWISE_TEST_ALL") !== "1") {
    return {
      missing: "downloads 800 MB; set SHARDWISE_TEST_ALL=1, or SHARDWISE_TEST_WHEELS to a site-packages folder",
    };
  }
  if (Deno.build.os !== "linux" || Deno.build.arch !== "x86_64") return { missing: "for Linux on x86_64" };
  const cache = `${Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME") ?? "/tmp"}/.cache`}/shardwise/wheels`;
  const folder = `${cache}/site-packages`;
  if (await exists(`${folder}/complete`)) return { folder };
  await Deno.mkdir(cache, { recursive: true });
  const args = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "--upgrade", ...PACKAGES];
  const { success, stderr } = await run("python3", args);
  if (!success) return { missing: `pip cannot install ${PACKAGES.join(", ")}: ${stderr.trim().split("\n").at(-1)}` };
  await Deno.writeTextFile(`${folder}/complete`, "");
  return { folder };
}

/** Runs a program to its end; a program that is not there has failed. */
export async function run(name: string, args: readonly string[]) {
  try {
    const { success, stdout, stderr } = await new Deno.Command(name, { args: [...args], stdin: "null" }).output();
    const text = new TextDecoder();
    return { success, stdout: text.decode(stdout), stderr: text.decode(stderr) };
  } catch (error) {
    return { success: false, stdout: "", stderr: String(error) };
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch {
    return false;
  }
}

/** The first engine that works here, and why not a better one. */
import { describeError } from "../../core/errors.ts";
import type { Engine } from "./engine.ts";
import { openNativeEngine } from "./ort_native.ts";
import { openWebEngine } from "./ort_web.ts";

/** Which engine: by name, or the first that loads. */
export type EngineChoice = "auto" | "native" | "web";

/**
 * Opens an engine. With `auto` the native package comes first; where it cannot load the WebAssembly one serves and its
 * `notice` says why. The environment variable SHARDWISE_ENGINE overrides `auto`.
 */
export async function openEngine(choice: EngineChoice = "auto"): Promise<Engine> {
  const wanted = choice === "auto" ? Deno.env.get("SHARDWISE_ENGINE") ?? "auto" : choice;
  if (wanted === "web") return await openWebEngine("onnxruntime-web was asked for");
  try {
    return await openNativeEngine();
  } catch (error) {
    if (wanted === "native") throw error;
    const reason = describeError(error).split("\n").join("; ");
    return await openWebEngine(`onnxruntime-node unavailable (${reason}): using onnxruntime-web, which is slower`);
  }
}

/** Plans that come from files: a plan's own, or an ONNX model with multi-device annotations. */
import { PlanError } from "./core/errors.ts";
import { deviceConfigurations, type NodeSharding, readShardings } from "./formats/device_annotations.ts";
import { fileSize } from "./formats/mapped_file.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import type { Config } from "./passes/context.ts";
import { checkRanks } from "./plan/check_plan.ts";
import { parsePlanFile, type PlanFile } from "./plan/plan_file.ts";

/** Reads a plan's file. @throws {FormatError} If there is none. @throws {PlanError} If it is no plan. */
export function readPlanFile(path: string): PlanFile {
  fileSize(path);
  return parsePlanFile(Deno.readTextFileSync(path), path);
}

/**
 * The annotations of a model for `ranks` devices.
 *
 * @throws {PlanError} If it has none, or only such for other numbers of devices.
 */
export function readAnnotations(file: OnnxFile, ranks: number): NodeSharding[] {
  const all = deviceConfigurations(file);
  const fitting = all.find(({ devices }) => devices === ranks);
  if (fitting) return readShardings(file, fitting.name);
  throw new PlanError(
    all.length === 0
      ? `Cannot plan by the annotations of ${file.path}: it has no device configuration`
      : `Cannot plan by the annotations of ${file.path} on ${ranks} ranks: they are for ${
        all.map(({ name, devices }) => `${devices} (${name})`).join(", ")
      }`,
    { hint: all.length === 0 ? "`shardwise export` writes them" : `run it on ${all[0]!.devices} ranks` },
  );
}

/** What `--plan PATH` asks for: an `.onnx` file's annotations, or a plan's file. */
export function planSource(path: string, ranks: number): Pick<Config, "plan" | "annotations"> {
  if (!path.endsWith(".onnx")) {
    const plan = readPlanFile(path);
    checkRanks(plan, ranks);
    return { plan };
  }
  using file = readOnnx(path);
  return { annotations: readAnnotations(file, ranks) };
}

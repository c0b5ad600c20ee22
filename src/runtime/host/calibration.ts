/**
 * Measured costs of this host, kept from `shardwise calibrate` to every later plan.
 *
 * They lie in the user's cache folder (SHARDWISE_CACHE names another one), a file for each host and number of cores, as home folders are shared and containers
 * get other shares of a machine. One file holds measurements for several numbers of ranks.
 */
import { dirname, join } from "node:path";
import type { EnvRecord } from "../../core/env_record.ts";
import { cannotWrite, FormatError } from "../../core/errors.ts";
import type { CostModel } from "../../plan/cost.ts";

/** What was measured with one number of ranks. */
export interface Measurement {
  /** Processes that measured at once. */
  readonly ranks: number;
  /** Threads of each rank's sessions. */
  readonly threads: number;
  /** ISO 8601. */
  readonly measured: string;
  /** What to replace of the defaults. */
  readonly costs: Partial<CostModel>;
}

/** All measurements of a host. */
export interface Calibration {
  readonly host: string;
  readonly cores: number;
  readonly measurements: readonly Measurement[];
}

const VERSION = 1;

/** Which host a calibration is of, and where it lies. */
export interface CalibrationPlace {
  readonly host: string;
  readonly cores: number;
  /** Undefined where there is none of SHARDWISE_CACHE, XDG_CACHE_HOME and HOME. */
  readonly path: string | undefined;
}

/** Where this user's measurements lie; undefined where there is none of SHARDWISE_CACHE, XDG_CACHE_HOME and HOME. */
export function cacheFolder(env: EnvRecord = Deno.env.toObject()): string | undefined {
  const cache = env.XDG_CACHE_HOME || (env.HOME ? join(env.HOME, ".cache") : undefined);
  return env.SHARDWISE_CACHE || (cache && join(cache, "shardwise"));
}

/** The place of this host's calibration. */
export function calibrationPlace(env: EnvRecord = Deno.env.toObject()): CalibrationPlace {
  const host = Deno.hostname(), cores = navigator.hardwareConcurrency;
  const folder = cacheFolder(env);
  const file = `costs-${host.replace(/[^\w.-]/g, "_")}-${cores}.json`;
  return { host, cores, path: folder && join(folder, file) };
}

/**
 * What was measured at `place`; undefined if nothing was.
 *
 * @throws {FormatError} If the file is broken, or of another version of Shardwise.
 */
export function readCalibration({ path }: CalibrationPlace): Calibration | undefined {
  let text: string;
  try {
    if (path === undefined) return undefined;
    text = Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
  const hint = `run \`shardwise calibrate\` again, or remove ${path}`;
  try {
    const { version, ...calibration } = JSON.parse(text) as Calibration & { readonly version: number };
    const isNumber = (n: unknown) => typeof n === "number" && Number.isFinite(n) && n >= 0;
    const valid = version === VERSION &&
      calibration.measurements.every(({ ranks, costs }) =>
        isNumber(ranks) &&
        Object.values(costs).every((v) => isNumber(v) || (Array.isArray(v) && v.flat().every(isNumber)))
      );
    if (!valid) throw new FormatError(`Cannot use the costs in ${path}: they are of version ${version}`, { hint });
    return calibration;
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    throw new FormatError(`Cannot read the costs in ${path}: ${String(cause)}`, { cause, hint });
  }
}

/** Keeps a measurement, in place of an older one with as many ranks. @throws {FormatError} If there is no folder for it. */
export function storeMeasurement(place: CalibrationPlace, measurement: Measurement): string {
  const { host, cores, path } = place;
  if (path === undefined) {
    throw new FormatError("Cannot store measured costs: there is no cache folder", {
      hint: "set XDG_CACHE_HOME or HOME",
    });
  }
  let known: readonly Measurement[] = [];
  try {
    known = readCalibration(place)?.measurements ?? [];
  } catch {
    // What is broken is replaced.
  }
  const measurements = [...known.filter((m) => m.ranks !== measurement.ranks), measurement]
    .toSorted((a, b) => a.ranks - b.ranks);
  try {
    Deno.mkdirSync(dirname(path), { recursive: true });
    // Whole or not at all: other jobs may read it now.
    const unfinished = `${path}.${Deno.pid}`;
    Deno.writeTextFileSync(
      unfinished,
      JSON.stringify({ version: VERSION, host, cores, measurements }, undefined, 1) + "\n",
    );
    Deno.renameSync(unfinished, path);
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
  return path;
}

/** The measurement for `ranks`: with as many, else with the nearest number, the larger of two. */
export function measurementFor(calibration: Calibration | undefined, ranks: number): Measurement | undefined {
  return calibration?.measurements.toSorted((a, b) =>
    Math.abs(a.ranks - ranks) - Math.abs(b.ranks - ranks) || b.ranks - a.ranks
  )[0];
}

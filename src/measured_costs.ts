/** What operations cost on this host, where `shardwise calibrate` measured it. */
import { FormatError } from "./core/errors.ts";
import type { Config } from "./passes/context.ts";
import type { Communicator } from "./runtime/comm/communicator.ts";
import { calibrationPlace, type Measurement, measurementFor, readCalibration } from "./runtime/host/calibration.ts";

/** What was measured on this host for a job of `ranks`, or nearly as many. @throws {FormatError} If the file is broken. */
export function hostMeasurement(ranks: number): Measurement | undefined {
  return measurementFor(readCalibration(calibrationPlace()), ranks);
}

/** `config` with measured costs where it says none itself. */
export function withMeasured(config: Config, measured: Measurement | undefined): Config {
  return measured ? { ...config, costs: { ...measured.costs, ...config.costs } } : config;
}

/**
 * `config` with rank 0's measured costs, as ranks on other hosts may have measured others and would plan differently.
 *
 * @throws {FormatError} If rank 0's measurements are broken: on all ranks.
 */
export async function agreeOnCosts(comm: Communicator, config: Config): Promise<Config> {
  if (config.calibrated === false) return config;
  type Found = { readonly measured?: Measurement | undefined; readonly problem?: { message: string; hint: string } };
  let found: Found | undefined;
  if (comm.rank === 0) {
    try {
      found = { measured: hostMeasurement(comm.size) };
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      found = { problem: { message: error.message, hint: error.hint ?? "" } };
    }
  }
  const { measured, problem } = await comm.objects.broadcast(found, 0);
  if (problem) throw new FormatError(problem.message, { hint: problem.hint });
  return withMeasured(config, measured);
}

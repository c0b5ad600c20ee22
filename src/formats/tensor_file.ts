/**
 * Named tensors in and out of whatever the path says: a `.safetensors` file, one `.npy` file, or a folder of `.npy` files named after
 * their tensors.
 */
import { basename, extname, join } from "node:path";
import { cannotWrite, FormatError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { fileSize } from "./mapped_file.ts";
import { readNpy, writeNpy } from "./npy.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { readTensor } from "./tensor_source.ts";

/**
 * Reads all tensors at `path` into memory. A single `.npy` file gives one tensor, named after the file.
 *
 * @throws {FormatError} If the path is missing, of another kind, or damaged.
 */
export async function readTensors(path: string): Promise<Map<string, HostTensor>> {
  const info = await Deno.stat(path).catch(() => undefined);
  if (info?.isDirectory) return readFolder(path);
  fileSize(path); // a missing file is told before its ending is
  switch (extname(path).toLowerCase()) {
    case ".safetensors": {
      using file = openSafetensors(path);
      return new Map(Array.from(file.tensors, ([name, source]) => [name, readTensor(source)]));
    }
    case ".npy":
      return new Map([[decodeName(basename(path)), readNpy(path)]]);
    default:
      throw unknownKind("read", path);
  }
}

/**
 * Writes `tensors` to `path`: a `.safetensors` file, one `.npy` file (for one tensor), or, for a path without ending or one that ends in `/`, a folder of
 * `.npy` files, which is made. A `/` or `%` in a tensor's name is written as `%2F` or `%25` there.
 *
 * @throws {FormatError} If the path's ending is another, or the format cannot hold a dtype.
 */
export async function writeTensors(path: string, tensors: ReadonlyMap<string, HostTensor>): Promise<void> {
  const info = await Deno.stat(path).catch(() => undefined);
  const extension = extname(path).toLowerCase();
  if (info?.isDirectory || /[\\/]$/.test(path) || extension === "") {
    await Deno.mkdir(path, { recursive: true }).catch((cause) => {
      throw cannotWrite(path, cause);
    });
    for (const [name, tensor] of tensors) await writeNpy(join(path, encodeName(name)), tensor);
  } else if (extension === ".safetensors") {
    await writeSafetensors(path, tensors);
  } else if (extension === ".npy") {
    const [only, ...more] = tensors.values();
    if (!only || more.length > 0) {
      throw new FormatError(`Cannot write ${tensors.size} tensors to ${path}: a .npy file holds one`, {
        hint: "name a folder or a .safetensors file",
      });
    }
    await writeNpy(path, only);
  } else {
    throw unknownKind("write", path);
  }
}

function readFolder(path: string): Map<string, HostTensor> {
  const names = Array.from(Deno.readDirSync(path), (e) => e.name).filter((n) => n.toLowerCase().endsWith(".npy"))
    .sort();
  if (names.length === 0) throw new FormatError(`Cannot read tensors from ${path}: the folder holds no .npy files`);
  return new Map(names.map((name) => [decodeName(name), readNpy(join(path, name))]));
}

function encodeName(name: string): string {
  return `${name.replace(/[%/\\\0]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`)}.npy`;
}

function decodeName(file: string): string {
  return file.replace(/\.npy$/i, "").replace(/%(25|2F|5C|00)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
}

function unknownKind(action: string, path: string): FormatError {
  return new FormatError(
    `Cannot ${action} tensors at ${path}: its ending ${JSON.stringify(extname(path))} is unknown`,
    {
      hint: "use a .safetensors file, a .npy file or a folder of .npy files",
    },
  );
}

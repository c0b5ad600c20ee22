/** Which file the system's loader mapped for a library. */

/** The file that was mapped for one of `names`; also of a library that was opened by another part of the process. */
export function mappedFile(names: readonly string[]): string | undefined {
  const stems = names.map((name) => name.slice(name.lastIndexOf("/") + 1).replace(/\.so.*$/, ".so"));
  let maps: string;
  try {
    maps = Deno.readTextFileSync("/proc/self/maps");
  } catch {
    return undefined; // no such file system, or no permission: then the name has to do
  }
  const files = new Set(maps.split("\n").flatMap((line) => line.match(/\/.*$/)?.[0] ?? []));
  // Open MPI's libmpi.so.40.30.4 is mapped for libmpi.so.40, and glibc's file may be called libc-2.31.so.
  return [...files].find((file) => {
    const base = file.slice(file.lastIndexOf("/") + 1);
    return stems.some((stem) => base.startsWith(stem) || base.replace(/-[\d.]+\.so/, ".so").startsWith(stem));
  });
}

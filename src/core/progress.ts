/** How long work tells whoever watches how far it is. */

/** Called when a phase begins, and again for every part of it: `done` of `total` parts are finished. */
export type OnProgress = (phase: string, done?: number, total?: number) => void;

/** A rank whose module graph is broken. */
import "./does_not_exist.ts";

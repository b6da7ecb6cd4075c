/** When to ask again, and after how long. No clock and no network in here. */

import { ApiError, ConnectionFailed, TimedOut } from "./errors.js";

export interface Retries {
  /** In all, the first one included. */
  attempts: number;
  /** Doubles each time, where the server names none. */
  firstWaitS: number;
  /** A server that asks for more is not waited for. */
  longestWaitS: number;
  /** In [0, 1). */
  draw: () => number;
}

export const RETRIES: Retries = { attempts: 4, firstWaitS: 0.5, longestWaitS: 60, draw: Math.random };

const SAFE = new Set(["GET", "HEAD", "PUT", "DELETE"]);

export function isSafe(method: string): boolean {
  return SAFE.has(method);
}

/**
 * Seconds to wait after `attempt` (from 1) failed; null: give the error up to the caller.
 *
 * Repeated are requests that the server refused for now (429, 503) and, where doing them twice does no harm, those whose
 * connection broke. A request that ran into its timeout is not: the server is at work on it. Never less than
 * `Retry-After`; the jitter comes on top, so that clients refused together do not return together.
 */
export function waitS(retries: Retries, error: unknown, attempt: number, idempotent: boolean): number | null {
  if (attempt >= retries.attempts || !mayRepeat(error, idempotent)) return null;
  const asked = error instanceof ApiError ? error.retryAfterS : null;
  if (asked === null) {
    const most = retries.firstWaitS * 2 ** (attempt - 1);
    return Math.min(retries.longestWaitS, most * (0.5 + retries.draw() / 2));
  }
  return asked > retries.longestWaitS ? null : asked + retries.draw() * Math.max(retries.firstWaitS, asked / 4);
}

function mayRepeat(error: unknown, idempotent: boolean): boolean {
  if (error instanceof TimedOut) return false;
  if (error instanceof ConnectionFailed) return idempotent;
  if (!(error instanceof ApiError)) return false;
  if (error.status === 429 || error.status === 503) return true;
  return idempotent && (error.status === 502 || error.status === 504 || error.code === "engine_error");
}

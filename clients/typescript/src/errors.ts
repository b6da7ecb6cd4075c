/**
 * What can go wrong between here and the server.
 *
 * GraceError
 * ├── ConnectionFailed   no answer, or one that broke off
 * │   └── TimedOut       the time allowed is over
 * ├── BadAnswer          an answer, but not from a GRACE server
 * └── ApiError           the server's own error: `status`, `code`, `param`, `requestId`, `retryAfterS`
 */

export class GraceError extends Error {
  override readonly name: string = "GraceError";

  constructor(
    message: string,
    /** The server's log has it too. */
    readonly requestId: string | null = null,
    options?: ErrorOptions,
  ) {
    super(requestId ? `${message} (request ${requestId})` : message, options);
  }
}

/** No answer, or one that broke off. */
export class ConnectionFailed extends GraceError {
  override readonly name: string = "ConnectionFailed";
}

/** The time allowed is over. The server may still be at work on it. */
export class TimedOut extends ConnectionFailed {
  override readonly name: string = "TimedOut";
}

/** An answer that is not one of a GRACE server: most likely the URL leads elsewhere. */
export class BadAnswer extends GraceError {
  override readonly name: string = "BadAnswer";
}

export interface Told {
  message?: string;
  type?: string;
  code?: string;
  param?: string | null;
}

/** An error the server told of. 422: `param` names the field; 429 and 503: `retryAfterS` says when to come again. */
export class ApiError extends GraceError {
  override readonly name: string = "ApiError";
  readonly type: string;
  readonly code: string;
  readonly param: string | null;

  constructor(
    told: Told,
    readonly status: number,
    requestId: string | null,
    readonly retryAfterS: number | null = null,
  ) {
    super(`${told.message ?? `the answer has status ${status}`} [${status} ${told.code ?? "unknown"}]`, requestId);
    this.type = told.type ?? "unknown";
    this.code = told.code ?? "unknown";
    this.param = told.param ?? null;
  }
}

/** The envelope `{"error": {...}}` of a body; empty if it is none, as from a proxy on the way. */
export function envelope(body: string): Told {
  try {
    const told: unknown = JSON.parse(body)?.error;
    return typeof told === "object" && told !== null ? (told as Told) : {};
  } catch {
    return {};
  }
}

/** Seconds of a `Retry-After`, which may be a number or a date; null if it says nothing. */
export function retryAfterS(value: string | null, now: number = Date.now()): number | null {
  if (value === null) return null;
  if (/^\s*\d+\s*$/.test(value)) return Number(value);
  const moment = /^\s*[A-Za-z]/.test(value) ? Date.parse(value) : NaN; // Date.parse takes "-5" for a year
  return Number.isNaN(moment) ? null : Math.max(0, (moment - now) / 1000);
}

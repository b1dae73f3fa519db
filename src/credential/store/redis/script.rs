//! What is done inside Redis: one script per operation, so that each is atomic, on one key each, so
//! that a cluster can have it anywhere.
//!
//! A place is a hash: `r` the record and `v` its version, `f` the number of the last lease, `e` when
//! that one ends and `o` who has it, `x` the hash of the last record that was removed, whose version
//! stays. Versions, numbers of leases and ends are microseconds of the
//! clock of Redis, so that they go on growing when the hash has gone. They fit into the numbers of
//! Lua, which are exact up to 2^53, until the year 2255.

use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{RedisResult, Script};

/// A longer record was not written by us, and is not fetched.
const LONGEST_RECORD: usize = 1 << 20;

/// For how long more than its lease a place without a record stays.
const TAIL: Duration = Duration::from_mins(1);

/// No lease is given for longer: nobody waits for more than that if a clock is set back.
pub(super) const LONGEST_LEASE: Duration = Duration::from_hours(1);

/// How long it stays known what was removed: longer than any lease, and than a process is usually
/// away from Redis, after which it writes again what it had written last.
const TOMB: Duration = Duration::from_hours(24);

/// What all of them begin with.
const PRELUDE: &str = r"
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function number(value) return tonumber(value or 0) or 0 end
local function text(value) return string.format('%.0f', value) end
local function record()
  if redis.call('HSTRLEN', key, 'r') > LONGEST then return false end
  return redis.call('HGET', key, 'r')
end
-- A lease that ends later than any that is given is of a clock that was set back.
local function left(ends)
  if ends > now and ends - now <= LEASE then return ends - now end
  return 0
end
";

/// Returns the record, or nothing.
const READ: &str = "return record()";

/// ARGV: how long, who asks. Returns {1, fence, record} or {0, microseconds left, record}.
/// Whoever asks again, because no answer came, gets the same lease again.
const CLAIM: &str = r"
local lease, owner = number(ARGV[1]), ARGV[2]
local held = redis.call('HMGET', key, 'f', 'e', 'o', 'v')
local fence, rest = number(held[1]), left(number(held[2]))
if rest > 0 then
  if held[3] == owner then return {1, fence, record()} end
  return {0, rest, record()}
end
fence = math.max(fence + 1, number(held[4]) + 1, now)
redis.call('HSET', key, 'f', text(fence), 'e', text(now + lease), 'o', owner)
local found, keep = record(), math.ceil(lease / 1000) + TAIL
local expires = redis.call('PTTL', key)
if (expires < 0 and not found) or (expires >= 0 and expires < keep) then
  redis.call('PEXPIRE', key, text(keep))
end
return {1, fence, found}
";

/// ARGV: record, when it was made, fence or '', milliseconds to keep it or ''. Returns 1, or 0 if
/// something newer counts, or it was removed.
const WRITE: &str = r"
local made, fence = number(ARGV[2]), number(ARGV[3])
local held = redis.call('HMGET', key, 'f', 'v', 'r', 'x')
if held[4] == redis.sha1hex(ARGV[1]) then return 0 end
local last, version = number(held[1]), number(held[2])
-- A version of tomorrow is of a clock that was set back.
if version > now + 60000000 then version = 0 end
if held[3] ~= ARGV[1] then
  if fence > 0 then
    if last > fence then return 0 end
  elseif version >= made then
    return 0
  end
end
redis.call('HSET', key, 'r', ARGV[1], 'v', text(math.max(made, fence)))
if fence > 0 and last == fence then redis.call('HDEL', key, 'e', 'o') end
if ARGV[4] == '' then
  redis.call('PERSIST', key)
else
  redis.call('PEXPIRE', key, ARGV[4])
end
return 1
";

/// ARGV: record. Returns 1 unless another is there. What it was stays known for a while, and its
/// version, so that who wrote it, or one before it, does not write it again on coming back.
const REMOVE: &str = r"
local there = redis.call('HGET', key, 'r')
if there and there ~= ARGV[1] then return 0 end
redis.call('HDEL', key, 'r')
redis.call('HSET', key, 'x', redis.sha1hex(ARGV[1]))
redis.call('PEXPIRE', key, TOMB)
return 1
";

/// ARGV: fence.
const RELEASE: &str = r"
if number(redis.call('HGET', key, 'f')) == number(ARGV[1]) then
  redis.call('HDEL', key, 'e', 'o')
end
return 1
";

/// ARGV: form, check. Returns what is there, and the time. Always writes, so that a server that
/// takes no writes is found out here.
const MEET: &str = r"
redis.call('HSETNX', key, 'form', ARGV[1])
redis.call('HSETNX', key, 'check', ARGV[2])
redis.call('HSET', key, 'met', text(now))
redis.call('PERSIST', key)
return {redis.call('HGET', key, 'form'), redis.call('HGET', key, 'check'), now}
";

/// All of them.
pub(super) struct Scripts {
    read: Script,
    claim: Script,
    write: Script,
    remove: Script,
    release: Script,
    meet: Script,
}

/// The answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With the number of the lease.
    Granted(u64),
    /// With what is left of somebody else's.
    Held(Duration),
}

/// What a store says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    /// The form of what is in it.
    pub(super) form: Vec<u8>,
    /// What only the right key opens.
    pub(super) check: Vec<u8>,
    /// The clock of Redis, in microseconds since 1970.
    pub(super) time: u64,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |text: &str| {
            let text = format!("{PRELUDE}{text}");
            let text = text.replace("LONGEST", &LONGEST_RECORD.to_string());
            let text = text.replace("LEASE", &LONGEST_LEASE.as_micros().to_string());
            let text = text.replace("TOMB", &TOMB.as_millis().to_string());
            Script::new(&text.replace("TAIL", &TAIL.as_millis().to_string()))
        };
        Self {
            read: script(READ),
            claim: script(CLAIM),
            write: script(WRITE),
            remove: script(REMOVE),
            release: script(RELEASE),
            meet: script(MEET),
        }
    }

    pub(super) async fn read(
        &self,
        connection: &mut impl ConnectionLike,
        key: &str,
    ) -> RedisResult<Option<Vec<u8>>> {
        self.read.key(key).invoke_async(connection).await
    }

    pub(super) async fn claim(
        &self,
        connection: &mut impl ConnectionLike,
        key: &str,
        lease: Duration,
        owner: &str,
    ) -> RedisResult<(Answer, Option<Vec<u8>>)> {
        let mut claim = self.claim.key(key);
        claim.arg(microseconds(lease)).arg(owner);
        let (granted, number, record): (u8, u64, _) = claim.invoke_async(connection).await?;
        let answer = match granted {
            0 => Answer::Held(Duration::from_micros(number)),
            _ => Answer::Granted(number),
        };
        Ok((answer, record))
    }

    /// `made` is on the clock of Redis, in microseconds. True if it is there now.
    pub(super) async fn write(
        &self,
        connection: &mut impl ConnectionLike,
        key: &str,
        (record, made): (&[u8], u64),
        fence: Option<u64>,
        keep: Option<Duration>,
    ) -> RedisResult<bool> {
        let number = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
        let keep = keep.map(|keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let mut write = self.write.key(key);
        write.arg(record).arg(made).arg(number(fence)).arg(number(keep));
        write.invoke_async(connection).await
    }

    pub(super) async fn remove(
        &self,
        connection: &mut impl ConnectionLike,
        key: &str,
        record: &[u8],
    ) -> RedisResult<()> {
        self.remove.key(key).arg(record).invoke_async(connection).await
    }

    pub(super) async fn release(
        &self,
        connection: &mut impl ConnectionLike,
        key: &str,
        fence: u64,
    ) -> RedisResult<()> {
        self.release.key(key).arg(fence).invoke_async(connection).await
    }

    /// Introduces itself: `check` is left there if there is none.
    pub(super) async fn meet(
        &self,
        connection: &mut impl ConnectionLike,
        key: &str,
        form: &[u8],
        check: &[u8],
    ) -> RedisResult<Meeting> {
        let mut meet = self.meet.key(key);
        meet.arg(form).arg(check);
        let (form, check, time) = meet.invoke_async(connection).await?;
        Ok(Meeting { form, check, time })
    }
}

impl std::fmt::Debug for Scripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripts")
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;

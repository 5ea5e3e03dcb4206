//! `rocker run --seccomp FILE`: a profile as OCI runtimes and container engines have them
//! (`config-linux.md#seccomp`, moby's `default.json`), as the kernel's instructions.
//!
//! Of the rules for a call the first one that fits decides, in the order of the file; else the
//! default action does. Rules for capabilities are for none: an App has none. Calls of a 32-bit
//! sibling of this machine end the App, whatever `archMap` says.

use core::str::FromStr as _;
use std::collections::BTreeMap;
use std::path::Path;

use protocol::seccomp::{
    ALLOW, Assembler, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, MACHINE_AT, NUMBER_AT, TRACE, TRAP,
    Test, argument_at,
};
use serde::Deserialize;
use syscalls::Sysno;

use super::{Fault, json};

/// As much as the kernel takes.
type Code = Assembler<{ protocol::request::FILTER_MAX }>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Rule>,
    /// Which machines it is for; it is compiled for this one.
    #[serde(default, rename = "architectures")]
    _architectures: serde::de::IgnoredAny,
    #[serde(default, rename = "archMap")]
    _arch_map: serde::de::IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
    #[serde(default, rename = "comment")]
    _comment: serde::de::IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// What becomes of a call, and when: with no argument to look at, always.
struct Clause<'a> {
    action: u32,
    arguments: &'a [Argument],
}

/// The filter of this file. `kill` is what becomes of calls that are to end the App.
pub(super) fn read(path: &Path, kill: u32) -> Result<Vec<u8>, Fault> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::refused(format!("read {}", path.display()), &error))?;
    compile(&text, kill)
        .map_err(|why| Fault::cannot(format_args!("use {} as a filter", path.display()), why))
}

fn compile(text: &str, kill: u32) -> Result<Vec<u8>, String> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|error| json::wrong(text, 1, &error))?;
    let default = action(&profile.default_action, profile.default_errno_ret, kill)?;
    let mut calls: BTreeMap<u32, Vec<Clause<'_>>> = BTreeMap::new();
    for rule in &profile.syscalls {
        let errno = rule.errno_ret.or(profile.default_errno_ret);
        let action = action(&rule.action, errno, kill)?;
        if !rule.includes.holds()? || rule.excludes.is_met() {
            continue;
        }
        let arguments = rule.args.as_deref().unwrap_or_default();
        for argument in arguments {
            argument.check()?;
        }
        for name in &rule.names {
            if let Some(number) = number_of(name)? {
                calls.entry(number).or_default().push(Clause { action, arguments });
            }
        }
    }
    assemble(default, &calls).ok_or_else(|| "it has more rules than the kernel takes".to_owned())
}

/// `SECCOMP_RET_*` for `SCMP_ACT_*`.
fn action(name: &str, errno: Option<u16>, kill: u32) -> Result<u32, String> {
    const EPERM: u16 = 1;
    const ERRNO_MAX: u16 = 4095;
    let errno = errno.unwrap_or(EPERM);
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ERRNO" if errno > ERRNO_MAX => return Err(format!("{errno} is no errno")),
        "SCMP_ACT_ERRNO" => ERRNO | u32::from(errno),
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_TRACE" => TRACE | u32::from(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" if kill == KILL_PROCESS => KILL_THREAD,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_KILL_PROCESS" => kill,
        "SCMP_ACT_NOTIFY" => return Err("SCMP_ACT_NOTIFY: nobody is there to be asked".to_owned()),
        other => return Err(format!("{other} is no action (SCMP_ACT_ALLOW, _ERRNO, ...)")),
    })
}

impl Condition {
    /// Of a rule that is to count only then.
    fn holds(&self) -> Result<bool, String> {
        let machine = self.arches.is_empty() || self.is_for_this_machine();
        let kernel = match &self.min_kernel {
            Some(version) => kernel_is_at_least(version)?,
            None => true,
        };
        Ok(machine && kernel && self.caps.is_empty())
    }

    /// Of a rule that is not to count then.
    fn is_met(&self) -> bool {
        self.is_for_this_machine()
    }

    fn is_for_this_machine(&self) -> bool {
        const THIS: &str = match std::env::consts::ARCH.as_bytes() {
            b"x86_64" => "amd64",
            b"aarch64" => "arm64",
            _ => std::env::consts::ARCH,
        };
        self.arches.iter().any(|machine| machine == THIS)
    }
}

fn kernel_is_at_least(wanted: &str) -> Result<bool, String> {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let running = numbers(&release);
    let wanted = numbers(wanted).ok_or_else(|| format!("{wanted} is no version of Linux"))?;
    Ok(running.is_none_or(|running| running >= wanted))
}

/// The number that a call has here; none if only other machines have it.
fn number_of(name: &str) -> Result<Option<u32>, String> {
    /// Names of libseccomp's that the table of numbers has otherwise.
    const OTHERWISE: [(&str, &str); 3] = [
        ("newfstatat", "fstatat"),
        ("sync_file_range2", "arm_sync_file_range"),
        ("fadvise64_64", "arm_fadvise64_64"),
    ];
    /// Behind `__ARM_NR_BASE`.
    const OF_ARM: [&str; 6] = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"];
    let other = OTHERWISE.iter().find(|(known, _)| *known == name).map(|(_, other)| *other);
    let names = [Some(name), other];
    if let Some(call) = names.iter().flatten().find_map(|name| Sysno::from_str(name).ok()) {
        return Ok(u32::try_from(call.id()).ok());
    }
    if let Some(nth) =
        (0xf_0001..).zip(OF_ARM).find_map(|(nth, known)| (known == name).then_some(nth))
    {
        return Ok(cfg!(target_arch = "arm").then_some(nth));
    }
    let is_known = names.iter().flatten().any(|name| {
        syscalls::x86_64::Sysno::from_str(name).is_ok()
            || syscalls::x86::Sysno::from_str(name).is_ok()
            || syscalls::aarch64::Sysno::from_str(name).is_ok()
            || syscalls::arm::Sysno::from_str(name).is_ok()
            || syscalls::riscv64::Sysno::from_str(name).is_ok()
    });
    if is_known { Ok(None) } else { Err(format!("there is no system call {name}")) }
}

fn assemble(default: u32, calls: &BTreeMap<u32, Vec<Clause<'_>>>) -> Option<Vec<u8>> {
    let mut code = Code::new();
    let foreign = code.answer(KILL_PROCESS);
    let otherwise = code.answer(default);
    // One place for all calls with the same fate.
    let mut answers = BTreeMap::from([(default, otherwise)]);
    let mut ranges = vec![(0, otherwise)];
    for (&number, clauses) in calls {
        let mut place = otherwise;
        for clause in clauses.iter().rev() {
            let action =
                *answers.entry(clause.action).or_insert_with(|| code.answer(clause.action));
            let otherwise = place;
            place = clause
                .arguments
                .iter()
                .rev()
                .fold(action, |then, argument| argument.assemble(&mut code, then, otherwise));
        }
        // Up to this one it is as it was, and behind it again.
        if ranges.last().is_some_and(|last| last.0 == number) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.1 != place) {
            ranges.push((number, place));
        }
        ranges.push((number + 1, otherwise));
    }
    if cfg!(target_arch = "x86_64") {
        // x32: other calls by the same numbers, and a bit.
        ranges.push((0x4000_0000, foreign));
    }
    ranges.dedup_by_key(|range| range.1);
    let search = code.search(&ranges);
    let number = code.load(NUMBER_AT, search);
    let machine = code.test(Test::Equal, protocol::seccomp::THIS_MACHINE, number, foreign);
    code.load(MACHINE_AT, machine);
    code.bytes().map(<[u8]>::to_vec)
}

impl Argument {
    const OPERATIONS: [&str; 7] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];

    fn check(&self) -> Result<(), String> {
        if self.index > 5 {
            return Err(format!("a call has no argument {}", self.index));
        }
        if !Self::OPERATIONS.contains(&self.op.as_str()) {
            return Err(format!("{} is no comparison (SCMP_CMP_EQ, _NE, ...)", self.op));
        }
        Ok(())
    }

    /// Goes to `yes` if it is so, else to `no`. The halves of an argument are compared one after
    /// the other, the upper one first.
    fn assemble(&self, code: &mut Code, yes: usize, no: usize) -> usize {
        let halves = |value: u64| {
            let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
            (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]))
        };
        let (low_at, high_at) = (argument_at(self.index), argument_at(self.index) + 4);
        let (high, low) = halves(self.value);
        match self.op.as_str() {
            "SCMP_CMP_MASKED_EQ" => {
                let (mask_high, mask_low) = (high, low);
                let (high, low) = halves(self.value_two);
                let place = code.test(Test::Equal, low, yes, no);
                let place = code.mask(mask_low, place);
                let place = code.load(low_at, place);
                let place = code.test(Test::Equal, high, place, no);
                let place = code.mask(mask_high, place);
                code.load(high_at, place)
            }
            "SCMP_CMP_EQ" => Self::compare(code, self.index, (high, low), Test::Equal, yes, no),
            "SCMP_CMP_NE" => Self::compare(code, self.index, (high, low), Test::Equal, no, yes),
            "SCMP_CMP_GT" => Self::compare(code, self.index, (high, low), Test::Greater, yes, no),
            "SCMP_CMP_LE" => Self::compare(code, self.index, (high, low), Test::Greater, no, yes),
            "SCMP_CMP_GE" => Self::compare(code, self.index, (high, low), Test::NotLess, yes, no),
            // "SCMP_CMP_LT": `check` knows no other.
            _ => Self::compare(code, self.index, (high, low), Test::NotLess, no, yes),
        }
    }

    fn compare(
        code: &mut Code,
        index: u32,
        (high, low): (u32, u32),
        test: Test,
        yes: usize,
        no: usize,
    ) -> usize {
        let place = code.test(test, low, yes, no);
        let low = code.load(argument_at(index), place);
        let place = code.test(Test::Equal, high, low, no);
        // An upper half that is greater decides, but for whether they are the same.
        let place = match test {
            Test::Greater | Test::NotLess => code.test(Test::Greater, high, yes, place),
            Test::Equal | Test::Shares => place,
        };
        code.load(argument_at(index) + 4, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        compile(text, KILL_PROCESS).unwrap_err()
    }

    fn with_rule(rule: &str) -> String {
        format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#)
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (rule, word) in [
            (r#"{"names": ["opne"], "action": "SCMP_ACT_ALLOW"}"#, "no system call opne"),
            (r#"{"names": ["open"], "action": "ALLOW"}"#, "ALLOW is no action"),
            (r#"{"names": [], "action": "SCMP_ACT_NOTIFY"}"#, "nobody is there"),
            (r#"{"names": [], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#, "4096 is no errno"),
            (
                r#"{"names": [], "action": "SCMP_ACT_ALLOW", "args":
                [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
                "no argument 6",
            ),
            (
                r#"{"names": [], "action": "SCMP_ACT_ALLOW", "args":
                [{"index": 0, "value": 0, "op": "=="}]}"#,
                "== is no comparison",
            ),
            (
                r#"{"names": [], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "x"}}"#,
                "x is no version",
            ),
            (
                r#"{"names": [], "action": "SCMP_ACT_ALLOW", "when": "now"}"#,
                "line 1: unknown key \"when\": known are names, ",
            ),
            (r#"{"names": "x"}"#, "line 1: names: it must be a list, not \"x\""),
            (r#"{"names": [1]}"#, "line 1: names: it must be a text in quotes, not 1"),
            ("\n{\"names\": []}", "line 2: \"action\" is missing"),
            (r#"{"names": [], "names": []}"#, "line 1: \"names\" is there twice"),
            ("3", "line 1: syscalls: it must be an object, not 3"),
            ("{\n3}", "line 2, column 1: it is not JSON: key must be a string"),
        ] {
            let said = refusal(&with_rule(rule));
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(refusal("{}"), "line 1: \"defaultAction\" is missing");
        assert_eq!(refusal("{\n"), "line 2: it is not JSON: it ends within an object");
        assert!(refusal(r#"{"defaultAction": "no"}"#).contains("no is no action"));
    }

    #[test]
    fn calls_of_other_machines_mean_nothing_here() {
        let others = r#"{"names": ["socketcall", "set_tls", "chown32", "riscv_flush_icache"],
            "action": "SCMP_ACT_ALLOW"}"#;
        if cfg!(target_arch = "x86_64") {
            let empty = compile(&with_rule(""), KILL_PROCESS);
            assert_eq!(compile(&with_rule(others), KILL_PROCESS), empty);
        }
    }

    #[test]
    fn more_than_the_kernel_takes_is_an_error() {
        let argument = r#"{"index": 1, "value": 1, "op": "SCMP_CMP_GT"}"#;
        let rule =
            format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{argument}]}}"#);
        let text = with_rule(&vec![rule; 1000].join(","));
        assert!(refusal(&text).contains("more rules than"));
    }
}

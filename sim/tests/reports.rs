//! `rocker-sim replay` and `draw`: a report that conforms, and one deviation of each kind.

use serde_json::{Value, json};
use sim::report::Report;
use sim::{Coverage, Launch, World, draw};

/// A report as `client-rs/src/cli/report.rs` writes it: times are made up.
fn report(change: impl FnOnce(&mut Vec<Value>)) -> Report {
    let mut at_us = 0.0;
    let mut steps = vec![];
    for (actor, names) in [
        ("client", "root.1 root.1"),
        ("master", "root.1 root.1 root.2 root.2 prepare.0 root.2 root.3"),
        ("guard", "root.3 prepare.0 prepare.1 prepare.2 prepare.1 prepare.2 prepare.3"),
        ("guard", "overlay.0 prepare.4 overlay.1 overlay.1 prepare.3 prepare.5"),
        ("guard", "prepare.6 prepare.6 prepare.6 prepare.7"),
        ("master", "prepare.7 prepare.8 prepare.8 prepare.8 prepare.9"),
        ("guard", "prepare.9 root.5"),
        ("client", "enter.0 enter.1"),
        ("helper", "enter.2 enter.2 enter.3 enter.3 enter.3 enter.3"),
        ("client", "enter.3 enter.4"),
    ] {
        for step in names.split(' ') {
            steps.push(json!({
                "actor": actor, "step": step, "at_us": at_us, "took_us": 5.5,
                "command": "true", "errno": null,
            }));
            at_us += 6.25;
        }
    }
    // Another took the first loop device.
    steps[12]["errno"] = json!("EBUSY");
    change(&mut steps);
    let report = json!({
        "name": "0123456789abcde", "guard_pid": 70, "app_pid": 71, "exit": 0, "package": "/x",
        "steps": steps,
    });
    Report::parse(&report.to_string()).expect("it is a report")
}

fn deviation(change: impl FnOnce(&mut Vec<Value>)) -> String {
    report(change).conforms().expect_err("it does not conform")
}

#[test]
fn a_launch_by_the_diagrams_conforms() {
    assert_eq!(report(|_| ()).conforms(), Ok(()));
}

/// The same launch, of a rocker that takes orders.
fn open(steps: &mut Vec<Value>) {
    steps.retain(|step| step["actor"] != "helper");
    steps.truncate(steps.len() - 3);
    let at_us = steps.last().and_then(|step| step["at_us"].as_f64()).map(|at_us| at_us + 6.0);
    steps.push(json!({
        "actor": "client", "step": "exec.0", "at_us": at_us, "took_us": 5.5, "command": "true",
    }));
}

#[test]
fn a_rocker_that_takes_orders_conforms() {
    assert_eq!(report(open).conforms(), Ok(()));
    let entered = deviation(|steps| {
        open(steps);
        let mut step = steps[0].clone();
        (step["actor"], step["step"]) = (json!("guard"), json!("enter.4"));
        step["at_us"] = json!(999.0);
        steps.push(step);
    });
    assert_eq!(entered, "guard: the rocker takes orders, but it took enter.4");
    let lost = deviation(|steps| {
        open(steps);
        steps.remove(26);
    });
    assert_eq!(lost, "master: after root.3 (true) comes prepare.7, but it took prepare.8 (true)");
}

#[test]
fn the_first_deviation_is_told_in_words() {
    assert_eq!(
        deviation(|steps| drop(steps.remove(23))),
        "guard: after prepare.6 (true) comes prepare.6, but it took prepare.7 (true)"
    );
    assert_eq!(
        deviation(|steps| steps[12]["errno"] = json!(null)),
        "guard: after prepare.2 (true) comes prepare.3, but it took prepare.1 (true)"
    );
    assert_eq!(
        deviation(|steps| steps[32]["step"] = json!("root.9")),
        "guard: after prepare.9 (true) comes root.5, but it took root.9 (true)"
    );
    assert_eq!(
        deviation(|steps| steps.truncate(42)),
        "client: the launch succeeded, but enter.4 is missing"
    );
    assert_eq!(
        deviation(|steps| {
            steps[29]["at_us"] = json!(205.25);
            steps[30]["at_us"] = json!(206.25);
        }),
        "guard: prepare.9 (true) was over 6 us before master began prepare.8 (true)"
    );
}

#[test]
fn what_is_no_report_is_refused() {
    assert!(Report::parse("{}").is_err());
    let trace = "root.1      client        0 us  connect # given\n";
    for text in ["", "root:x:0:0:root:/root:/bin/bash\n", trace] {
        assert!(Report::parse(text).is_err(), "{text}");
    }
    assert!(Report::parse("{\"steps\": [{\"actor\": \"guard\", \"step\": \"root.77\"}]}").is_err());
}

#[test]
fn a_transcript_conforms_but_for_its_end_and_is_drawn() {
    let mut world = World::new(&[Launch::overlaid(2)]).transcribed();
    world.run(&mut Coverage::default()).unwrap();
    let report = Report::parse(&world.transcript()).unwrap();
    let picture = draw::mermaid(&report);
    assert!(picture.contains("master ->> guard: root.3 sendmsg"), "{picture}");
    assert!(picture.contains("guard ->> client: root.5 sendmsg"), "{picture}");
    let timeline = draw::svg(&report);
    assert_eq!(timeline.matches("<rect").count(), report.steps.len() + 1);
}

/// The same launch, which failed there after so many steps.
fn failed(step: &str, after: usize) -> Result<(), String> {
    let steps: Vec<Value> = report(|_| ())
        .steps
        .iter()
        .take(after)
        .map(|it| {
            json!({
                "actor": it.actor, "step": it.step.map(|step| step.to_string()),
                "at_us": it.at_us, "took_us": it.took_us, "command": "true", "errno": null,
            })
        })
        .chain([json!({
            "actor": "master", "step": "prepare.7", "at_us": 900.0, "took_us": 1.0,
            "command": "recvmsg # from the guard", "errno": null,
        })])
        .chain([json!({
            "actor": "master", "step": "root.10", "at_us": 901.0, "took_us": 1.0,
            "command": "kill -KILL 70", "errno": null,
        })])
        .collect();
    let report = json!({ "error": { "step": step, "errno": null }, "steps": steps });
    Report::parse(&report.to_string()).expect("it is a report").conforms()
}

#[test]
fn a_launch_that_failed_conforms_if_it_failed_where_somebody_was() {
    // The guard fell silent after its mount, and the master ended it.
    assert_eq!(failed("prepare.7", 11), Ok(()));
    let elsewhere = "the launch failed at enter.4, which nobody took";
    assert_eq!(failed("enter.4", 11), Err(elsewhere.to_owned()));
}

/// Written by `rocker run --report` on a real kernel: one launch, and one whose program is not
/// in its package.
#[test]
fn real_launches_conform() {
    for text in
        [include_str!("../reports/launch.json"), include_str!("../reports/no_such_program.json")]
    {
        let report = Report::parse(text).unwrap();
        assert_eq!(report.conforms(), Ok(()));
        assert!(draw::mermaid(&report).contains("guard ->> master: prepare.7"));
    }
}

/// `PLANTED.md` is written by `sim-mutants show`; this sees that it still is what it says.
#[test]
fn the_planted_bug_is_drawn_as_it_is_told() {
    let page = include_str!("../PLANTED.md");
    let block = |kind: &str| {
        let (_, rest) = page.split_once(&format!("```{kind}\n")).expect("it is there");
        rest.split_once("```").expect("it ends").0
    };
    for line in block("diff").lines() {
        let line = line.replacen('-', "- ", 1).replacen('+', "+ ", 1);
        assert!(include_str!("../mutants.txt").contains(&line), "no mutant has {line}");
    }
    let story = block("text").split("\n\n").nth(1).expect("it tells a story");
    assert_eq!(draw::mermaid(&Report::parse(story).unwrap()), block("mermaid"));
}

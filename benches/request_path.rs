//! What a request costs before it is sent, piece by piece: signing, finding its route, rewriting its
//! fields, reading its path. `cargo bench` runs them; `bench/compare` measures the whole program.

#![expect(clippy::unwrap_used, reason = "a benchmark may end so")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use countersign::config::{self, Config, SourceSpec};
use countersign::credential::secrets::Secrets;
use countersign::proxy::headers::{Via, strip_request, strip_response};
use countersign::proxy::path::generous_reading;
use countersign::proxy::retarget::retarget;
use countersign::proxy::route::RouteTable;
use countersign::sign::{SignableRequest, Signer};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:8080\"\n";

fn load(text: &str) -> Config {
    config::load(&format!("{LISTEN}{text}"), &|_| None).config.unwrap()
}

/// The signer of the only credential in `text`.
fn signer(text: &str) -> Signer {
    let config = load(text);
    let credential = config.credentials.first().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let secrets =
        runtime.block_on(Secrets::resolve(config.secrets(), config.check_permissions)).unwrap();
    let SourceSpec::Fixed(spec) = &credential.source else { unreachable!("no login here") };
    credential.scheme.bind(&spec.read(&secrets).unwrap()).unwrap()
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    fields.iter().map(field).collect()
}

fn signing(criterion: &mut Criterion) {
    let devo = signer(
        "[credential.devo]\nkind = \"devo-signature\"\nreseller_api_key = { value = \"key\" }\n\
         api_secret = { value = \"secret\" }\n\
         [[route]]\nupstream = \"https://api.example.com\"\ncredential = \"devo\"\n",
    );
    let fields = headers(&[("host", "api.example.com"), ("content-type", "application/json")]);
    let request = SignableRequest {
        method: &Method::POST,
        authority: "api.example.com",
        path: "/probio/domain",
        query: None,
        headers: &fields,
    };
    let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut group = criterion.benchmark_group("signing");
    for size in [64, 1 << 10, 1 << 20] {
        let content = vec![0x5a; size];
        group.throughput(Throughput::Bytes(u64::try_from(size).unwrap()));
        group.bench_with_input(BenchmarkId::from_parameter(size), &content, |bencher, content| {
            bencher.iter(|| {
                let mut digest = devo.digest(&request, at).unwrap();
                if let Some(digest) = &mut digest {
                    digest.update(content);
                }
                devo.sign(black_box(&request), digest, at).unwrap().iter().count()
            });
        });
    }
    group.finish();
}

fn setting_fields(criterion: &mut Criterion) {
    let key = signer(
        "[credential.key]\nkind = \"twinzo-api-key\"\napi_key = { value = \"key\" }\n\
         client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\n\
         branch_guid = \"7b1d9e84-3c25-4f0a-8e7d-51a2c4b6d830\"\n\
         [[route]]\nupstream = \"https://api.example.com\"\ncredential = \"key\"\n",
    );
    let headers = headers(&[("host", "api.example.com"), ("accept", "*/*")]);
    let request = SignableRequest {
        method: &Method::GET,
        authority: "api.example.com",
        path: "/v3/devices",
        query: None,
        headers: &headers,
    };
    let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    criterion.bench_function("setting fields", |bencher| {
        bencher.iter(|| {
            let mut sent = headers.clone();
            for (name, value) in key.sign(black_box(&request), None, at).unwrap().iter() {
                sent.insert(name.clone(), value.clone());
            }
            sent.len()
        });
    });
}

fn route_lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route look-up");
    for count in [10, 1_000, 10_000] {
        let mut text = String::new();
        for number in 0..count {
            write!(
                text,
                "[[route]]\npath = \"/site/{number}/api\"\nupstream = \"https://api.example.com\"\n"
            )
            .unwrap();
        }
        let table = RouteTable::new(&load(&text).routes);
        let path = format!("/site/{}/api/v3/localization/devices", count / 2);
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| table.find("127.0.0.1", black_box(&path), &Method::GET));
        });
    }
    group.finish();
}

fn header_rewriting(criterion: &mut Criterion) {
    let config = load(
        "[credential.key]\nkind = \"twinzo-api-key\"\napi_key = { value = \"key\" }\n\
         client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\n\
         branch_guid = \"7b1d9e84-3c25-4f0a-8e7d-51a2c4b6d830\"\n\
         [[route]]\nupstream = \"https://api.example.com\"\ncredential = \"key\"\n",
    );
    let owned = &config.credentials.first().unwrap().owned;
    let via = Via::new(1);
    let request = headers(&[
        ("host", "127.0.0.1:8080"),
        ("user-agent", "gateway/2.1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("connection", "keep-alive"),
        ("content-type", "application/json"),
        ("content-length", "17"),
        ("token", "a caller's own"),
        ("x-forwarded-for", "10.1.2.3"),
    ]);
    let answer = headers(&[
        ("server", "example"),
        ("date", "Sat, 21 Nov 2026 08:00:00 GMT"),
        ("content-type", "application/json"),
        ("content-length", "60"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=60"),
    ]);
    let mut group = criterion.benchmark_group("header rewriting");
    group.bench_function("request", |bencher| {
        bencher.iter(|| {
            let mut headers = request.clone();
            strip_request(&mut headers, &[owned]);
            via.add(&mut headers, Version::HTTP_11);
            headers.len()
        });
    });
    group.bench_function("answer", |bencher| {
        bencher.iter(|| {
            let mut headers = answer.clone();
            strip_response(&mut headers);
            headers.len()
        });
    });
    group.finish();
}

fn path_handling(criterion: &mut Criterion) {
    let config =
        load("[[route]]\npath = \"/devo\"\nupstream = \"https://api.example.com/probio\"\n");
    let upstream = &config.routes.first().unwrap().upstream;
    let mut group = criterion.benchmark_group("path handling");
    for (name, target) in [
        ("plain", "/devo/v3/localization/devices?from=2026-11-21&to=2026-11-22"),
        ("encoded", "/devo/v3/a%2Fb/c%20d/e;f=1/devices?from=2026-11-21"),
    ] {
        let uri: Uri = target.parse().unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let read = generous_reading(black_box(&uri).path()).unwrap();
                (read.len(), retarget(&uri, "/devo".len(), upstream))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, signing, setting_fields, route_lookup, header_rewriting, path_handling);
criterion_main!(benches);

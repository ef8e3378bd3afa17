//! A batch of rows that were written down, instead of polled: the columns of `_core.FlowBatch`, backwards.

use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::decode::{EncapLayer, Path, Transport, Vlans};
use crate::fingerprint::{self, Confidence, EvidenceSet, Finding, LookAlike, Phase, Protocol, Variant};
use crate::flow::{EndReason, FlowKey, FlowReport, Report};

fn get<'py, T: FromPyObjectOwned<'py>>(row: &Bound<'py, PyDict>, column: &str) -> PyResult<T> {
    let value = row.get_item(column)?.ok_or_else(|| PyKeyError::new_err(column.to_owned()))?;
    value.extract().map_err(Into::into)
}

fn named<T: Copy>(name: &str, all: impl IntoIterator<Item = T>, of: impl Fn(T) -> &'static str) -> PyResult<T> {
    let found = all.into_iter().find(|one| of(*one) == name);
    found.ok_or_else(|| PyValueError::new_err(format!("FlowBatch: {name:?} is no name that a column has")))
}

fn column<T: Copy>(
    row: &Bound<'_, PyDict>,
    column: &str,
    all: impl IntoIterator<Item = T>,
    of: impl Fn(T) -> &'static str,
) -> PyResult<T> {
    named(&get::<String>(row, column)?, all, of)
}

fn padded(address: &[u8]) -> PyResult<[u8; 16]> {
    let mut octets = [0; 16];
    let place = matches!(address.len(), 4 | 16).then(|| octets.get_mut(..address.len())).flatten();
    let place = place.ok_or_else(|| PyValueError::new_err("FlowBatch: an address has 4 or 16 bytes"))?;
    place.copy_from_slice(address);
    Ok(octets)
}

/// The report that a row shows.
pub fn report(row: &Bound<'_, PyDict>) -> PyResult<FlowReport> {
    let (source, destination): (Vec<u8>, Vec<u8>) = (get(row, "source")?, get(row, "destination")?);
    let transport = column(row, "transport", Transport::ALL, Transport::name)?;
    let port = |column| get::<Option<u16>>(row, column).map(Option::unwrap_or_default);
    let ends = [(padded(&source)?, port("source_port")?), (padded(&destination)?, port("destination_port")?)];
    let source_is_low = ends[0] <= ends[1];
    let [(low, low_port), (high, high_port)] = if source_is_low { ends } else { [ends[1], ends[0]] };
    let ip_version = if source.len() == 4 { 4 } else { 6 };
    let key = FlowKey { low, high, low_port, high_port, transport, ip_version, scope: 0 };
    let is_flipped: bool = get(row, "flipped")?;
    let initiator = u8::from(is_flipped);
    let by_direction = |to_server: u64, to_client: u64| {
        if is_flipped { [to_client, to_server] } else { [to_server, to_client] }
    };
    let vlans = get::<Vec<u16>>(row, "vlan")?.iter().fold(0, |ids, id| ids << 16 | (u64::from(*id) + 1));
    let mut path = 0;
    for name in get::<Vec<String>>(row, "encap")? {
        path = path << 5 | (named(&name, EncapLayer::ALL.iter().copied(), EncapLayer::name)? as u64 + 1);
    }
    let mut evidence = EvidenceSet::default();
    for (id, _, packet, time, direction, length, count) in
        get::<Vec<(String, u32, u64, i64, String, u32, u32)>>(row, "evidence")?
    {
        let kind = named(&id, fingerprint::evidence_kinds(), |kind| kind.id)?;
        let direction = if direction == "to_server" { initiator } else { initiator ^ 1 };
        for _ in 0..count {
            evidence.add(kind, packet, time, direction, length);
        }
    }
    for name in get::<Vec<String>>(row, "ruled_out")? {
        evidence.rule_out(named(&name, LookAlike::ALL.iter().copied(), LookAlike::name)?);
    }
    let end_reason: Option<String> = get(row, "end_reason")?;
    Ok(FlowReport {
        report: column(row, "report", Report::ALL, Report::name)?,
        number: get(row, "number")?,
        time: get(row, "time_ns")?,
        flow_id: get(row, "flow_id")?,
        handle: get(row, "handle")?,
        tag: get(row, "tag")?,
        key,
        first_is_low: source_is_low != is_flipped,
        vlans: Vlans(vlans),
        path: Path(path),
        protocol: column(row, "protocol", Protocol::ALL, Protocol::name)?,
        finding: Finding {
            confidence: column(row, "confidence", Confidence::ALL, Confidence::name)?,
            phase: column(row, "phase", Phase::ALL, Phase::name)?,
            variant: column(row, "variant", Variant::ALL.iter().copied(), Variant::name)?,
            initiator: Some(initiator),
            midflow: get(row, "midflow")?,
        },
        evidence,
        via_proxy: get(row, "via_proxy")?,
        packets: by_direction(get(row, "packets_to_server")?, get(row, "packets_to_client")?),
        bytes: by_direction(get(row, "bytes_to_server")?, get(row, "bytes_to_client")?),
        start: get(row, "start_ns")?,
        end: get(row, "end_ns")?,
        end_reason: end_reason.map(|name| named(&name, EndReason::ALL, EndReason::name)).transpose()?,
    })
}

// The rules of istio/monitoring for managed Prometheus. Written by `UPDATE_AZURE=1 make test-azure`: change them there.
param prefix string
param location string
param workspaceId string
param clusterId string
param clusterName string
param actionGroupId string

resource circuitBreaker 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${prefix}-circuit-breaker'
  location: location
  properties: {
    enabled: true
    interval: 'PT1M'
    // The workspace, and of its clusters this one.
    scopes: [workspaceId, clusterId]
    clusterName: clusterName
    rules: [
      {
        alert: 'CircuitBreakerOpen'
        expression: 'max by (tag) (circuit_breaker_state{wasm_filter="circuit_breaker"}) > 0'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.tag }} has been kept from its users for 5 minutes'
          runbook: 'istio/monitoring/runbooks.md#circuitbreakeropen'
        }
        severity: 2
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
        actions: [
          {
            actionGroupId: actionGroupId
          }
        ]
      }
      {
        alert: 'CircuitBreakerRejectingMost'
        expression: 'sum by (tag) (rate(circuit_breaker_rejected_total{wasm_filter="circuit_breaker"}[5m])) / (sum by (tag) (rate(circuit_breaker_rejected_total{wasm_filter="circuit_breaker"}[5m])) + sum by (tag) (rate(circuit_breaker_calls_total{wasm_filter="circuit_breaker"}[5m]))) > 0.5'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'critical'
        }
        annotations: {
          summary: 'More than half of the requests to {{ $labels.tag }} are rejected'
          runbook: 'istio/monitoring/runbooks.md#circuitbreakerrejectingmost'
        }
        severity: 0
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
        actions: [
          {
            actionGroupId: actionGroupId
          }
        ]
      }
      {
        alert: 'CircuitBreakerFlapping'
        expression: 'sum by (tag, pod) (increase(circuit_breaker_trips_total{wasm_filter="circuit_breaker",component!="probe_failed"}[1h])) > 4'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.tag }} recovers and trips again and again in {{ $labels.pod }}'
          runbook: 'istio/monitoring/runbooks.md#circuitbreakerflapping'
        }
        severity: 2
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
        actions: [
          {
            actionGroupId: actionGroupId
          }
        ]
      }
      {
        alert: 'CircuitBreakerMissing'
        expression: 'max by (namespace, pod) (envoy_server_live{namespace="istio-ingress"}) unless on (namespace, pod) max by (namespace, pod) (circuit_breaker_circuits{wasm_filter="circuit_breaker"})'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.pod }} runs without the circuit breaker'
          runbook: 'istio/monitoring/runbooks.md#circuitbreakermissing'
        }
        severity: 2
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
        actions: [
          {
            actionGroupId: actionGroupId
          }
        ]
      }
      {
        alert: 'CircuitBreakerUnprotected'
        expression: 'sum by (pod) (increase(circuit_breaker_unprotected_total{wasm_filter="circuit_breaker"}[10m])) > 0 or sum by (pod) (circuit_breaker_unprotected_total{wasm_filter="circuit_breaker"} unless circuit_breaker_unprotected_total{wasm_filter="circuit_breaker"} offset 10m) > 0'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.pod }} has more upstreams than limits.maxCircuits'
          runbook: 'istio/monitoring/runbooks.md#circuitbreakerunprotected'
        }
        severity: 2
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
        actions: [
          {
            actionGroupId: actionGroupId
          }
        ]
      }
      {
        alert: 'CircuitBreakerInternalErrors'
        expression: 'sum by (pod, component) (increase(circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker"}[10m])) > 0 or sum by (pod, component) (circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker"} unless circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker"} offset 10m) > 0'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.pod }} could not do its work ({{ $labels.component }}), and let traffic pass'
          runbook: 'istio/monitoring/runbooks.md#circuitbreakerinternalerrors'
        }
        severity: 2
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
        actions: [
          {
            actionGroupId: actionGroupId
          }
        ]
      }
    ]
  }
}

// The rules of istio/monitoring for managed Prometheus. Written by `UPDATE_AZURE=1 make test-azure`: change them there.
param prefix string
param location string
param workspaceId string
param clusterId string
param clusterName string
param actionGroupId string

resource circuitBreakerObjectiveRecords 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${prefix}-circuit-breaker-objective-records'
  location: location
  properties: {
    enabled: true
    interval: 'PT1M'
    // The workspace, and of its clusters this one.
    scopes: [workspaceId, clusterId]
    clusterName: clusterName
    rules: [
      {
        record: 'upstream:circuit_breaker_error_budget:ratio'
        expression: '0.001 * upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_judged:rate5m'
        expression: 'sum by (cluster, tag) ( rate(circuit_breaker_calls_total{wasm_filter="circuit_breaker",component=~"success|slow|failure"}[5m]) or rate(circuit_breaker_rejected_total{wasm_filter="circuit_breaker"}[5m]) ) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:rate5m'
        expression: 'sum by (cluster, tag) ( rate(circuit_breaker_calls_total{wasm_filter="circuit_breaker",component="failure"}[5m]) or rate(circuit_breaker_rejected_total{wasm_filter="circuit_breaker"}[5m]) ) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate5m'
        expression: 'upstream:circuit_breaker_errors:rate5m / (upstream:circuit_breaker_judged:rate5m > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate30m'
        expression: 'sum_over_time(upstream:circuit_breaker_errors:rate5m[30m]) / (sum_over_time(upstream:circuit_breaker_judged:rate5m[30m]) > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate1h'
        expression: 'sum_over_time(upstream:circuit_breaker_errors:rate5m[1h]) / (sum_over_time(upstream:circuit_breaker_judged:rate5m[1h]) > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate2h'
        expression: 'sum_over_time(upstream:circuit_breaker_errors:rate5m[2h]) / (sum_over_time(upstream:circuit_breaker_judged:rate5m[2h]) > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate6h'
        expression: 'sum_over_time(upstream:circuit_breaker_errors:rate5m[6h]) / (sum_over_time(upstream:circuit_breaker_judged:rate5m[6h]) > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate1d'
        expression: 'sum_over_time(upstream:circuit_breaker_errors:rate5m[1d]) / (sum_over_time(upstream:circuit_breaker_judged:rate5m[1d]) > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_errors:ratio_rate3d'
        expression: 'sum_over_time(upstream:circuit_breaker_errors:rate5m[3d]) / (sum_over_time(upstream:circuit_breaker_judged:rate5m[3d]) > 0)'
        enabled: true
      }
    ]
  }
}

resource circuitBreakerObjective 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${prefix}-circuit-breaker-objective'
  location: location
  properties: {
    enabled: true
    interval: 'PT1M'
    // The workspace, and of its clusters this one.
    scopes: [workspaceId, clusterId]
    clusterName: clusterName
    rules: [
      {
        alert: 'CircuitBreakerBudgetBurnsFast'
        expression: 'upstream:circuit_breaker_errors:ratio_rate1h > 14.4 * upstream:circuit_breaker_error_budget:ratio and upstream:circuit_breaker_errors:ratio_rate5m > 14.4 * upstream:circuit_breaker_error_budget:ratio and avg_over_time(upstream:circuit_breaker_judged:rate5m[1h]) > 0.1'
        enabled: true
        for: 'PT2M'
        labels: {
          severity: 'critical'
          window: '1h'
        }
        annotations: {
          summary: '{{ $labels.tag }} burns its error budget fast'
          description: '{{ $value | humanizePercentage }} of the requests of the last hour failed or were rejected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerbudgetburnsfast'
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
        alert: 'CircuitBreakerBudgetBurnsFast'
        expression: 'upstream:circuit_breaker_errors:ratio_rate6h > 6 * upstream:circuit_breaker_error_budget:ratio and upstream:circuit_breaker_errors:ratio_rate30m > 6 * upstream:circuit_breaker_error_budget:ratio and avg_over_time(upstream:circuit_breaker_judged:rate5m[6h]) > 0.1'
        enabled: true
        for: 'PT15M'
        labels: {
          severity: 'critical'
          window: '6h'
        }
        annotations: {
          summary: '{{ $labels.tag }} burns its error budget fast'
          description: '{{ $value | humanizePercentage }} of the requests of the last 6 hours failed or were rejected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerbudgetburnsfast'
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
        alert: 'CircuitBreakerBudgetBurnsSlowly'
        expression: 'upstream:circuit_breaker_errors:ratio_rate1d > 3 * upstream:circuit_breaker_error_budget:ratio and upstream:circuit_breaker_errors:ratio_rate2h > 3 * upstream:circuit_breaker_error_budget:ratio and avg_over_time(upstream:circuit_breaker_judged:rate5m[1d]) > 0.01'
        enabled: true
        for: 'PT1H'
        labels: {
          severity: 'warning'
          window: '1d'
        }
        annotations: {
          summary: '{{ $labels.tag }} burns its error budget slowly'
          description: '{{ $value | humanizePercentage }} of the requests of the last day failed or were rejected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerbudgetburnsslowly'
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
        alert: 'CircuitBreakerBudgetBurnsSlowly'
        expression: 'upstream:circuit_breaker_errors:ratio_rate3d > upstream:circuit_breaker_error_budget:ratio and upstream:circuit_breaker_errors:ratio_rate6h > upstream:circuit_breaker_error_budget:ratio and avg_over_time(upstream:circuit_breaker_judged:rate5m[3d]) > 0.01'
        enabled: true
        for: 'PT3H'
        labels: {
          severity: 'warning'
          window: '3d'
        }
        annotations: {
          summary: '{{ $labels.tag }} burns its error budget slowly'
          description: '{{ $value | humanizePercentage }} of the requests of the last 3 days failed or were rejected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerbudgetburnsslowly'
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

resource circuitBreakerUpstreams 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${prefix}-circuit-breaker-upstreams'
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
        expression: 'upstream:circuit_breaker_enforced_not_closed:ratio > 0'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.tag }} has been kept from its users for 5 minutes'
          description: '{{ $value | humanizePercentage }} of the proxies that enforce do not let all requests pass.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakeropen'
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
        expression: 'upstream:circuit_breaker_rejected:ratio_rate5m > 0.5 and upstream:circuit_breaker_rejected:rate5m > 0.1'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'critical'
        }
        annotations: {
          summary: 'More than half of the requests to {{ $labels.tag }} are rejected'
          description: 'The breaker rejects {{ $value | humanizePercentage }} of what users ask of it, over all proxies.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerrejectingmost'
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
        alert: 'CircuitBreakerWouldReject'
        expression: 'upstream:circuit_breaker_would_reject:rate5m > 0.1'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'info'
        }
        annotations: {
          summary: 'In enforce, requests to {{ $labels.tag }} would be rejected'
          description: 'All requests pass, as the mode is observe. Enforce would have rejected {{ $value | humanize }} a second.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerwouldreject'
        }
        severity: 3
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
      }
      {
        alert: 'CircuitBreakerFlapping'
        expression: 'max by (cluster, tag) (sum by (cluster, namespace, pod, instance, tag) ( increase(circuit_breaker_trips_total{wasm_filter="circuit_breaker",component!~"probe_failed|forced"}[1h]) )) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info > 4'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.tag }} recovers and trips again and again'
          description: '{{ $value | humanize }} trips within an hour in one proxy, failed probes not counted.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerflapping'
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
        alert: 'CircuitBreakerForced'
        expression: 'max by (cluster, tag) (circuit_breaker_mode{wasm_filter="circuit_breaker"} == 3) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
        for: 'P1D'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: '{{ $labels.tag }} has been forced open for a day'
          description: 'Its policy says mode forceOpen in at least one proxy, which rejects every request.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerforced'
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

resource circuitBreakerProxies 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${prefix}-circuit-breaker-proxies'
  location: location
  properties: {
    enabled: true
    interval: 'PT1M'
    // The workspace, and of its clusters this one.
    scopes: [workspaceId, clusterId]
    clusterName: clusterName
    rules: [
      {
        alert: 'CircuitBreakerMissing'
        expression: 'proxy:circuit_breaker_expected:info unless on (cluster, namespace, pod, instance) circuit_breaker_circuits{wasm_filter="circuit_breaker"}'
        enabled: true
        for: 'PT5M'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'A proxy runs without the circuit breaker: {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: 'It lives, should have the module and shows none of its metrics. All requests pass, unprotected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakermissing'
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
        alert: 'CircuitBreakerAbsent'
        expression: 'count by (cluster) (circuit_breaker_circuits{wasm_filter="circuit_breaker"} offset 1h) unless count by (cluster) (circuit_breaker_circuits{wasm_filter="circuit_breaker"}) or count by (cluster) (absent(circuit_breaker_circuits{wasm_filter="circuit_breaker"}))'
        enabled: true
        for: 'PT15M'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'No proxy shows the circuit breaker'
          description: 'No series of it is left in the cluster {{ $labels.cluster }}: nothing is scraped, or no proxy runs it.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerabsent'
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
        alert: 'CircuitBreakerNotScraped'
        expression: 'max by (cluster, namespace, pod, instance) (up) == 0 and on (cluster, namespace, pod, instance) count_over_time(circuit_breaker_circuits{wasm_filter="circuit_breaker"}[6h])'
        enabled: true
        for: 'PT10M'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'A proxy with the circuit breaker cannot be scraped: {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: 'It was scraped within 6 hours and is not any more. The breaker works; its alerts are blind to this proxy.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakernotscraped'
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
        alert: 'CircuitBreakerTrapped'
        expression: 'sum by (cluster, namespace, pod, instance) ( rate(istio_requests_total{reporter="source",destination_service_name!~"PassthroughCluster|BlackHoleCluster"}[5m]) ) > 1 and on (cluster, namespace, pod, instance) ( sum by (cluster, namespace, pod, instance) ( rate(istio_requests_total{reporter="source",destination_service_name!~"PassthroughCluster|BlackHoleCluster"}[5m])) > 0.5 * (avg_over_time(proxy:circuit_breaker_requests:rate5m[6h]) > 0)) unless on (cluster, namespace, pod, instance) proxy:circuit_breaker_requests:rate5m > 0 unless on (cluster, namespace, pod, instance) max_over_time(circuit_breaker_mode{wasm_filter="circuit_breaker"}[6h]) >= 2'
        enabled: true
        for: 'PT10M'
        labels: {
          severity: 'critical'
        }
        annotations: {
          summary: 'The circuit breaker counts nothing while requests pass: {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: 'Istio counts {{ $value | humanize }} requests a second there, the breaker none: its VMs have trapped.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakertrapped'
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
        alert: 'CircuitBreakerFetchFailing'
        expression: 'sum by (cluster, namespace, pod, instance, result) (increase(istio_agent_wasm_remote_fetch_count{result!="success"}[1h])) > 0 or sum by (cluster, namespace, pod, instance, result) (istio_agent_wasm_remote_fetch_count{result!="success"} unless istio_agent_wasm_remote_fetch_count{result!="success"} offset 1h) > 0'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'A Wasm module could not be fetched ({{ $labels.result }}): {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: 'The agent does not try again by itself; without the module all requests pass, unprotected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerfetchfailing'
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
        alert: 'CircuitBreakerConfigRefused'
        expression: 'sum by (cluster, namespace, pod, instance) (increase( circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker",component="config"}[1h])) > 0 or sum by (cluster, namespace, pod, instance) (circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker",component="config"} unless circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker",component="config"} offset 1h) > 0'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'A new policy was refused: {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: 'The earlier policy stays in force. The proxy\'s log names the field.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerconfigrefused'
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
        expression: 'sum by (cluster, namespace, pod, instance, component) (increase( circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker",component!="config"}[10m])) > 0 or sum by (cluster, namespace, pod, instance, component) ( circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker",component!="config"} unless circuit_breaker_internal_errors_total{wasm_filter="circuit_breaker",component!="config"} offset 10m) > 0'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'The breaker had an error of its own ({{ $labels.component }}): {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: '{{ $value | humanize }} within 10 minutes; each let a request pass.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerinternalerrors'
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
        expression: 'sum by (cluster, namespace, pod, instance) (increase(circuit_breaker_unprotected_total{wasm_filter="circuit_breaker"}[10m])) > 0 or sum by (cluster, namespace, pod, instance) (circuit_breaker_unprotected_total{wasm_filter="circuit_breaker"} unless circuit_breaker_unprotected_total{wasm_filter="circuit_breaker"} offset 10m) > 0'
        enabled: true
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'More upstreams than limits.maxCircuits: {{ $labels.namespace }} {{ $labels.pod }} {{ $labels.instance }}'
          description: '{{ $value | humanize }} requests within 10 minutes had no circuit, and passed unprotected.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerunprotected'
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
        alert: 'CircuitBreakerPoliciesDiffer'
        expression: 'count by (cluster, namespace) (count by (cluster, namespace, component) (circuit_breaker_info{wasm_filter="circuit_breaker"} == 1)) > 1'
        enabled: true
        for: 'PT1H'
        labels: {
          severity: 'info'
        }
        annotations: {
          summary: 'Proxies of {{ $labels.namespace }} run different policies'
          description: '{{ $value }} policies have been in use for an hour. Some proxies refused the new one, or two plugins are at work.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakerpoliciesdiffer'
        }
        severity: 3
        resolveConfiguration: {
          autoResolved: true
          timeToResolve: 'PT10M'
        }
      }
      {
        alert: 'CircuitBreakerModulesDiffer'
        expression: 'count by (cluster) (count by (cluster, tag) (circuit_breaker_info{wasm_filter="circuit_breaker"} == 1)) > 1'
        enabled: true
        for: 'PT1H'
        labels: {
          severity: 'warning'
        }
        annotations: {
          summary: 'Proxies run different versions of the circuit breaker'
          description: '{{ $value }} modules have been in use for an hour, longer than a roll-out takes.'
          runbook_url: 'https://git.example.com/circuit-breaker/blob/main/istio/monitoring/runbooks.md#circuitbreakermodulesdiffer'
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

resource circuitBreakerRecords 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${prefix}-circuit-breaker-records'
  location: location
  properties: {
    enabled: true
    interval: 'PT1M'
    // The workspace, and of its clusters this one.
    scopes: [workspaceId, clusterId]
    clusterName: clusterName
    rules: [
      {
        record: 'upstream:circuit_breaker_names:info'
        expression: 'label_replace(label_replace(label_replace(label_replace(label_replace(label_replace(label_replace(label_replace( count by (cluster, tag) (circuit_breaker_state{wasm_filter="circuit_breaker"}) > bool 0, "host", "$1", "tag", "(.+)"), "host", "$1", "tag", "(?:outbound|inbound|inbound-vip)\\\\|[0-9]+\\\\|[^|]*\\\\|([^|]+)"), "host", "$1.$2", "host", "(.*component)%2e(.*)"), "host", "$1.$2", "host", "(.*component)%2e(.*)"), "port", "$1", "tag", "(?:outbound|inbound|inbound-vip)\\\\|([0-9]+)\\\\|[^|]*\\\\|[^|]+"), "subset", "$1", "tag", "(?:outbound|inbound)\\\\|[0-9]+\\\\|([^|]+)\\\\|[^|]+"), "subset", "$1", "tag", "inbound-vip\\\\|[0-9]+\\\\|[^|/]*/([^|]+)\\\\|[^|]+"), "destination_namespace", "$1", "host", "[^.]+\\\\.([^.]+)\\\\.svc(?:\\\\..+)?")'
        enabled: true
      }
      {
        record: 'upstream_component:circuit_breaker_calls:rate5m'
        expression: 'sum by (cluster, tag, component) (rate(circuit_breaker_calls_total{wasm_filter="circuit_breaker"}[5m])) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_calls:rate5m'
        expression: 'sum without (component) (upstream_component:circuit_breaker_calls:rate5m)'
        enabled: true
      }
      {
        record: 'upstream_component:circuit_breaker_rejected:rate5m'
        expression: 'sum by (cluster, tag, component) (rate(circuit_breaker_rejected_total{wasm_filter="circuit_breaker"}[5m])) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_rejected:rate5m'
        expression: 'sum without (component) (upstream_component:circuit_breaker_rejected:rate5m)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_would_reject:rate5m'
        expression: 'sum by (cluster, tag) (rate(circuit_breaker_would_reject_total{wasm_filter="circuit_breaker"}[5m])) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_requests:rate5m'
        expression: 'upstream:circuit_breaker_calls:rate5m + upstream:circuit_breaker_rejected:rate5m or upstream:circuit_breaker_calls:rate5m'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_rejected:ratio_rate5m'
        expression: 'upstream:circuit_breaker_rejected:rate5m / (upstream:circuit_breaker_requests:rate5m > 0) or 0 * (upstream:circuit_breaker_requests:rate5m > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_success:ratio_rate5m'
        expression: 'sum without (component) (upstream_component:circuit_breaker_calls:rate5m{component=~"success|slow"}) / (sum without (component) (upstream_component:circuit_breaker_calls:rate5m{component=~"success|slow|failure"}) > 0)'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_recovery_time_seconds:p50_increase1d'
        expression: '(histogram_quantile(0.5, sum by (cluster, tag, le) (increase(circuit_breaker_recovery_time_ms_bucket{wasm_filter="circuit_breaker"}[1d]))) / 1000 > 0) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_recovery_time_seconds:p95_increase1d'
        expression: '(histogram_quantile(0.95, sum by (cluster, tag, le) (increase(circuit_breaker_recovery_time_ms_bucket{wasm_filter="circuit_breaker"}[1d]))) / 1000 > 0) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_open:ratio'
        expression: 'avg by (cluster, tag) (circuit_breaker_state{wasm_filter="circuit_breaker"} == bool 2) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'upstream:circuit_breaker_enforced_not_closed:ratio'
        expression: 'avg by (cluster, tag) ( (circuit_breaker_state{wasm_filter="circuit_breaker"} unless circuit_breaker_mode{wasm_filter="circuit_breaker"} > 0) > bool 0 ) * on (cluster, tag) group_left (host, port, subset, destination_namespace) upstream:circuit_breaker_names:info'
        enabled: true
      }
      {
        record: 'proxy:circuit_breaker_requests:rate5m'
        expression: 'sum by (cluster, namespace, pod, instance) ( rate(circuit_breaker_calls_total{wasm_filter="circuit_breaker"}[5m]) or rate(circuit_breaker_rejected_total{wasm_filter="circuit_breaker"}[5m]))'
        enabled: true
      }
      {
        record: 'proxy:circuit_breaker_expected:info'
        expression: 'max by (cluster, namespace, pod, instance) (envoy_server_live{namespace="istio-ingress"} == 1) or max by (cluster, namespace, pod, instance) (envoy_server_live{kubernetes_namespace="istio-ingress"} == 1) or max by (cluster, namespace, pod, instance) (envoy_server_live == 1) and on (cluster, namespace, pod, instance) (istio_agent_wasm_config_conversion_count{result=~"fetch_failure|unmarshal_failure|marshal_failure|miss_remote_fetch_hint"} > 0) or max by (cluster, namespace, pod, instance) (envoy_server_live == 1) and on (cluster, namespace, pod, instance) (circuit_breaker_circuits{wasm_filter="circuit_breaker"} offset 1h)'
        enabled: true
      }
    ]
  }
}

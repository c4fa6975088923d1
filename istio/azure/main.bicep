// Two regions of the same mesh behind Traffic Manager: istio/azure/README.md says what stands where, and which times go together.
//
// What both need (registry, Traffic Manager, action group) goes into the group that is deployed to, and each region into a group of
// its own: a region that is gone takes nothing with it, and both can have a private zone of the same name.
//
// main.json is this file as ARM JSON; `UPDATE_AZURE=1 make test-azure` writes it. example.parameters.json shows the parameters.
targetScope = 'resourceGroup'

@description('What all names begin with: letters and digits. Traffic Manager and the registry need names that nobody else has.')
@minLength(3)
@maxLength(12)
param prefix string

@description('The name that users ask for. A CNAME of it leads to Traffic Manager; gateway, listener and probes all use it.')
param host string

@description('The regions, the first of them the registry\'s home: name, location, resource group (it exists), network, subnets, addresses, certificate.')
@minLength(2)
param regions array

@description('The path that says whether a region is well: a route of its own, without retries, that answers 200 when well.')
param regionHealthPath string

@description('The path that says whether the mesh\'s gateway is there: a direct response of the gateway, whatever the services do.')
param gatewayHealthPath string

@description('Base64 of the certificate (.cer) of the authority that signed the gateway\'s own certificate.')
param gatewayAuthority string

@description('Entra groups whose members administer the clusters. Local accounts are off.')
@minLength(1)
param administrators array

@description('Who is told of alerts.')
param alertEmail string

@description('Seconds between two probes of Traffic Manager.')
@allowed([10, 30])
param probeInterval int = 10

@description('Seconds that a probe may take. With an interval of 10 s, at most 9.')
@minValue(5)
@maxValue(10)
param probeTimeout int = 5

@description('Failed probes that are put up with before a region is left.')
@minValue(0)
@maxValue(9)
param toleratedFailures int = 3

@description('Seconds for which resolvers may keep an answer.')
@minValue(0)
param dnsTtl int = 30

module actionGroup 'modules/action-group.bicep' = {
  name: 'action-group'
  params: {
    name: '${prefix}-oncall'
    email: alertEmail
  }
}

module network 'modules/network.bicep' = [for region in regions: {
  name: 'network-${region.name}'
  scope: resourceGroup(region.resourceGroup)
  params: {
    name: '${prefix}-${region.name}'
    location: region.location
    network: region.network
    subnets: region.subnets
  }
}]

module registry 'modules/registry.bicep' = {
  name: 'registry'
  params: {
    name: '${prefix}registry'
    location: regions[0].location
    replicas: skip(regions, 1)
  }
}

module registryEndpoint 'modules/registry-endpoint.bicep' = [for (region, index) in regions: {
  name: 'registry-endpoint-${region.name}'
  scope: resourceGroup(region.resourceGroup)
  params: {
    name: '${prefix}-${region.name}-registry'
    location: region.location
    registryId: registry.outputs.registryId
    subnetId: network[index].outputs.endpointsSubnetId
    networkId: network[index].outputs.networkId
  }
}]

module cluster 'modules/cluster.bicep' = [for (region, index) in regions: {
  name: 'cluster-${region.name}'
  scope: resourceGroup(region.resourceGroup)
  params: {
    name: '${prefix}-${region.name}'
    location: region.location
    networkName: network[index].outputs.networkName
    administrators: administrators
  }
}]

module registryPull 'modules/registry-pull.bicep' = {
  name: 'registry-pull'
  params: {
    registryName: '${prefix}registry'
    principalIds: [for (region, index) in regions: cluster[index].outputs.kubeletPrincipalId]
  }
  dependsOn: [registry]
}

module monitoring 'modules/monitoring.bicep' = [for (region, index) in regions: {
  name: 'monitoring-${region.name}'
  scope: resourceGroup(region.resourceGroup)
  params: {
    name: '${prefix}-${region.name}'
    location: region.location
    clusterName: cluster[index].outputs.clusterName
  }
}]

module ruleGroups 'modules/rule-groups.bicep' = [for (region, index) in regions: {
  name: 'rule-groups-${region.name}'
  scope: resourceGroup(region.resourceGroup)
  params: {
    prefix: '${prefix}-${region.name}'
    location: region.location
    workspaceId: monitoring[index].outputs.workspaceId
    clusterId: cluster[index].outputs.clusterId
    clusterName: cluster[index].outputs.clusterName
    actionGroupId: actionGroup.outputs.actionGroupId
  }
}]

module applicationGateway 'modules/application-gateway.bicep' = [for (region, index) in regions: {
  name: 'application-gateway-${region.name}'
  scope: resourceGroup(region.resourceGroup)
  params: {
    name: '${prefix}-${region.name}'
    location: region.location
    subnetId: network[index].outputs.gatewaySubnetId
    host: host
    privateAddress: region.privateListenerAddress
    backendAddress: region.loadBalancerAddress
    healthPath: gatewayHealthPath
    authority: gatewayAuthority
    certificateSecretId: region.certificateSecretId
    certificateIdentityId: region.certificateIdentityId
  }
}]

module trafficManager 'modules/traffic-manager.bicep' = {
  name: 'traffic-manager'
  params: {
    name: prefix
    host: host
    healthPath: regionHealthPath
    regions: regions
    targetIds: [for (region, index) in regions: applicationGateway[index].outputs.publicAddressId]
    probeInterval: probeInterval
    probeTimeout: probeTimeout
    toleratedFailures: toleratedFailures
    dnsTtl: dnsTtl
  }
}

output dnsName string = trafficManager.outputs.dnsName
output registryServer string = registry.outputs.server

// The registry of the module's image, with a copy in each region, reached through private endpoints alone.
//
// A proxy's agent fetches the module itself, and not the kubelet: the cluster's right to pull (AcrPull) does not help it. The token
// below may read this one repository; its password becomes the plugin's imagePullSecret (README.md, "After the deployment").
param name string
param location string
param replicas array

resource registry 'Microsoft.ContainerRegistry/registries@2025-11-01' = {
  name: name
  location: location
  sku: {
    name: 'Premium'
  }
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    adminUserEnabled: false
    anonymousPullEnabled: false
    publicNetworkAccess: 'Disabled'
    networkRuleBypassOptions: 'None'
    networkRuleSet: {
      defaultAction: 'Deny'
    }
    zoneRedundancy: 'Enabled'
    // Layers come from the registry's own names, and not from Azure's storage, which a firewall cannot tell from anybody else's.
    dataEndpointEnabled: true
    policies: {
      exportPolicy: {
        status: 'disabled'
      }
      retentionPolicy: {
        days: 30
        status: 'enabled'
      }
    }
  }
}

// The registry's own region is no replica.
resource replication 'Microsoft.ContainerRegistry/registries/replications@2025-11-01' = [for replica in replicas: {
  parent: registry
  name: replica.location
  location: replica.location
  properties: {
    zoneRedundancy: 'Enabled'
    regionEndpointEnabled: true
  }
}]

resource readsModule 'Microsoft.ContainerRegistry/registries/scopeMaps@2025-11-01' = {
  parent: registry
  name: 'circuit-breaker-pull'
  properties: {
    description: 'Reads the image of the circuit breaker and nothing else'
    actions: [
      'repositories/circuit-breaker/content/read'
      'repositories/circuit-breaker/metadata/read'
    ]
  }
}

resource pullToken 'Microsoft.ContainerRegistry/registries/tokens@2025-11-01' = {
  parent: registry
  name: 'circuit-breaker-pull'
  properties: {
    scopeMapId: readsModule.id
    status: 'enabled'
  }
}

output registryId string = registry.id
output server string = registry.properties.loginServer

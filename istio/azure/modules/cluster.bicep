// One region's cluster: three zones, Istio installed by its owner (the managed add-on refuses WasmPlugin), managed Prometheus.
param name string
param location string
param networkName string
param administrators array

var networkContributor = '4d97b98b-1d4f-4787-a291-c67834d212e7'
// Three zones, so that one lost leaves two thirds; mesh/gateway spreads over them.
var zones = ['1', '2', '3']

resource network 'Microsoft.Network/virtualNetworks@2026-03-01' existing = {
  name: networkName
}

resource nodes 'Microsoft.Network/virtualNetworks/subnets@2026-03-01' existing = {
  parent: network
  name: 'nodes'
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${name}-cluster'
  location: location
}

resource kubelet 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${name}-kubelet'
  location: location
}

// The internal load balancer takes its address from the nodes' subnet.
resource joinsNetwork 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: nodes
  name: guid(nodes.id, identity.id, networkContributor)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', networkContributor)
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

var identityOperator = 'f1a07417-d97a-45cb-824c-7a7467783830'

// A cluster with a kubelet identity of its own must be let assign it.
resource assignsKubelet 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: kubelet
  name: guid(kubelet.id, identity.id, identityOperator)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', identityOperator)
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource cluster 'Microsoft.ContainerService/managedClusters@2026-08-01' = {
  name: name
  location: location
  sku: {
    name: 'Base'
    tier: 'Standard'
  }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    dnsPrefix: name
    disableLocalAccounts: true
    enableRBAC: true
    aadProfile: {
      managed: true
      enableAzureRBAC: false
      adminGroupObjectIDs: administrators
    }
    apiServerAccessProfile: {
      enablePrivateCluster: true
    }
    identityProfile: {
      kubeletidentity: {
        resourceId: kubelet.id
        clientId: kubelet.properties.clientId
        objectId: kubelet.properties.principalId
      }
    }
    agentPoolProfiles: [
      {
        name: 'system'
        mode: 'System'
        type: 'VirtualMachineScaleSets'
        count: 3
        minCount: 3
        maxCount: 6
        enableAutoScaling: true
        availabilityZones: zones
        vmSize: 'Standard_D4ds_v5'
        osSKU: 'AzureLinux'
        osDiskType: 'Ephemeral'
        maxPods: 110
        enableEncryptionAtHost: true
        nodeTaints: ['CriticalAddonsOnly=true:NoSchedule']
        vnetSubnetID: nodes.id
        upgradeSettings: {
          maxSurge: '33%'
        }
      }
      {
        name: 'mesh'
        mode: 'User'
        type: 'VirtualMachineScaleSets'
        count: 3
        minCount: 3
        maxCount: 12
        enableAutoScaling: true
        availabilityZones: zones
        // LocalDNS needs four cores.
        vmSize: 'Standard_D4ds_v5'
        osSKU: 'AzureLinux'
        osDiskType: 'Ephemeral'
        maxPods: 110
        enableEncryptionAtHost: true
        vnetSubnetID: nodes.id
        upgradeSettings: {
          maxSurge: '33%'
        }
        // Names resolve on the node itself; network policies must let pods ask there (components/localdns).
        localDNSProfile: {
          mode: 'Required'
        }
      }
    ]
    networkProfile: {
      networkPlugin: 'azure'
      networkPluginMode: 'overlay'
      networkPolicy: 'cilium'
      networkDataplane: 'cilium'
      loadBalancerSku: 'standard'
    }
    autoUpgradeProfile: {
      upgradeChannel: 'stable'
      nodeOSUpgradeChannel: 'NodeImage'
    }
    azureMonitorProfile: {
      metrics: {
        enabled: true
        kubeStateMetrics: {
          metricLabelsAllowlist: ''
          metricAnnotationsAllowList: ''
        }
      }
    }
    addonProfiles: {
      azurepolicy: {
        enabled: true
      }
      azureKeyvaultSecretsProvider: {
        enabled: true
        config: {
          enableSecretRotation: 'true'
        }
      }
    }
    securityProfile: {
      imageCleaner: {
        enabled: true
        intervalHours: 168
      }
      workloadIdentity: {
        enabled: true
      }
    }
    oidcIssuerProfile: {
      enabled: true
    }
  }
  dependsOn: [joinsNetwork, assignsKubelet]
}

output clusterId string = cluster.id
output clusterName string = cluster.name
output kubeletPrincipalId string = kubelet.properties.principalId

// One region's network: nodes, the Application Gateway, and private endpoints, each in a subnet of its own.
param name string
param location string
param network string
param subnets object

// The Application Gateway is the only way in. Azure itself manages it through 65200 to 65535, from its own addresses.
resource gatewayRules 'Microsoft.Network/networkSecurityGroups@2026-03-01' = {
  name: '${name}-gateway'
  location: location
  properties: {
    securityRules: [
      {
        name: 'users'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: 'Internet'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRanges: ['80', '443']
        }
      }
      {
        name: 'inside'
        properties: {
          priority: 110
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: 'VirtualNetwork'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '443'
        }
      }
      {
        name: 'azure-manages-it'
        properties: {
          priority: 120
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: 'GatewayManager'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '65200-65535'
        }
      }
      {
        name: 'azure-probes-it'
        properties: {
          priority: 130
          direction: 'Inbound'
          access: 'Allow'
          protocol: '*'
          sourceAddressPrefix: 'AzureLoadBalancer'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
      {
        name: 'nobody-else'
        properties: {
          priority: 4096
          direction: 'Inbound'
          access: 'Deny'
          protocol: '*'
          sourceAddressPrefix: '*'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ]
  }
}

// The mesh's internal load balancer keeps clients' addresses, so that the nodes see the Application Gateway's subnet.
resource nodesRules 'Microsoft.Network/networkSecurityGroups@2026-03-01' = {
  name: '${name}-nodes'
  location: location
  properties: {
    securityRules: [
      {
        name: 'application-gateway'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: subnets.gateway
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '443'
        }
      }
    ]
  }
}

resource virtualNetwork 'Microsoft.Network/virtualNetworks@2026-03-01' = {
  name: name
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [network]
    }
    subnets: [
      {
        name: 'nodes'
        properties: {
          addressPrefix: subnets.nodes
          networkSecurityGroup: {
            id: nodesRules.id
          }
        }
      }
      {
        name: 'gateway'
        properties: {
          addressPrefix: subnets.gateway
          networkSecurityGroup: {
            id: gatewayRules.id
          }
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: subnets.endpoints
          privateEndpointNetworkPolicies: 'Enabled'
          networkSecurityGroup: {
            id: nodesRules.id
          }
        }
      }
    ]
  }
}

output networkId string = virtualNetwork.id
output networkName string = virtualNetwork.name
output gatewaySubnetId string = '${virtualNetwork.id}/subnets/gateway'
output endpointsSubnetId string = '${virtualNetwork.id}/subnets/endpoints'

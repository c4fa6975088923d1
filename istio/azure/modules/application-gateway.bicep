// One region's Application Gateway v2 with its WAF, in three zones: TLS ends here, is looked into, and begins anew to the mesh's gateway.
// It listens on a public address for Traffic Manager's users, and on a private one for those who come through the network.
param name string
param location string
param subnetId string
param host string
param privateAddress string
param backendAddress string
param healthPath string
param authority string
param certificateSecretId string
param certificateIdentityId string

var zones = ['1', '2', '3']
var gatewayId = resourceId('Microsoft.Network/applicationGateways', name)

// Traffic Manager's endpoint must have a name of its own in DNS.
resource publicAddress 'Microsoft.Network/publicIPAddresses@2026-03-01' = {
  name: '${name}-gateway'
  location: location
  sku: {
    name: 'Standard'
  }
  zones: zones
  properties: {
    publicIPAllocationMethod: 'Static'
    publicIPAddressVersion: 'IPv4'
    dnsSettings: {
      domainNameLabel: name
    }
  }
}

resource firewall 'Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies@2026-03-01' = {
  name: name
  location: location
  properties: {
    policySettings: {
      state: 'Enabled'
      mode: 'Prevention'
      requestBodyCheck: true
      maxRequestBodySizeInKb: 128
      fileUploadLimitInMb: 100
    }
    managedRules: {
      managedRuleSets: [
        {
          ruleSetType: 'Microsoft_DefaultRuleSet'
          ruleSetVersion: '2.1'
        }
        {
          ruleSetType: 'Microsoft_BotManagerRuleSet'
          ruleSetVersion: '1.1'
        }
      ]
    }
  }
}

resource gateway 'Microsoft.Network/applicationGateways@2026-03-01' = {
  name: name
  location: location
  zones: zones
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${certificateIdentityId}': {}
    }
  }
  properties: {
    sku: {
      name: 'WAF_v2'
      tier: 'WAF_v2'
    }
    // One instance a zone at least: a new one takes minutes to come.
    autoscaleConfiguration: {
      minCapacity: 3
      maxCapacity: 10
    }
    enableHttp2: true
    firewallPolicy: {
      id: firewall.id
    }
    sslPolicy: {
      policyType: 'Predefined'
      policyName: 'AppGwSslPolicy20220101S'
    }
    gatewayIPConfigurations: [
      {
        name: 'subnet'
        properties: {
          subnet: {
            id: subnetId
          }
        }
      }
    ]
    frontendIPConfigurations: [
      {
        name: 'public'
        properties: {
          publicIPAddress: {
            id: publicAddress.id
          }
        }
      }
      {
        name: 'private'
        properties: {
          privateIPAllocationMethod: 'Static'
          privateIPAddress: privateAddress
          subnet: {
            id: subnetId
          }
        }
      }
    ]
    frontendPorts: [
      {
        name: 'http'
        properties: {
          port: 80
        }
      }
      {
        name: 'https'
        properties: {
          port: 443
        }
      }
    ]
    sslCertificates: [
      {
        name: 'users'
        properties: {
          keyVaultSecretId: certificateSecretId
        }
      }
    ]
    trustedRootCertificates: [
      {
        name: 'mesh'
        properties: {
          data: authority
        }
      }
    ]
    httpListeners: [
      {
        name: 'public'
        properties: {
          frontendIPConfiguration: {
            id: '${gatewayId}/frontendIPConfigurations/public'
          }
          frontendPort: {
            id: '${gatewayId}/frontendPorts/https'
          }
          protocol: 'Https'
          sslCertificate: {
            id: '${gatewayId}/sslCertificates/users'
          }
          hostName: host
          requireServerNameIndication: true
        }
      }
      {
        name: 'private'
        properties: {
          frontendIPConfiguration: {
            id: '${gatewayId}/frontendIPConfigurations/private'
          }
          frontendPort: {
            id: '${gatewayId}/frontendPorts/https'
          }
          protocol: 'Https'
          sslCertificate: {
            id: '${gatewayId}/sslCertificates/users'
          }
          hostName: host
          requireServerNameIndication: true
        }
      }
      {
        name: 'plaintext'
        properties: {
          frontendIPConfiguration: {
            id: '${gatewayId}/frontendIPConfigurations/public'
          }
          frontendPort: {
            id: '${gatewayId}/frontendPorts/http'
          }
          protocol: 'Http'
          hostName: host
        }
      }
    ]
    backendAddressPools: [
      {
        name: 'mesh'
        properties: {
          backendAddresses: [
            {
              ipAddress: backendAddress
            }
          ]
        }
      }
    ]
    // The probe asks whether the mesh's gateway is there, and not how the services are: an OPEN circuit's own answer, or its fallback,
    // would become a bare 502 of the Application Gateway. Its protocol is the backend's, and its host is the name in TLS, too.
    probes: [
      {
        name: 'mesh'
        properties: {
          protocol: 'Https'
          host: host
          path: healthPath
          interval: 10
          timeout: 5
          unhealthyThreshold: 3
          match: {
            statusCodes: ['200']
          }
        }
      }
    ]
    backendHttpSettingsCollection: [
      {
        name: 'mesh'
        properties: {
          protocol: 'Https'
          port: 443
          hostName: host
          cookieBasedAffinity: 'Disabled'
          // Above the routes' 10 s, so that the mesh's own answer arrives.
          requestTimeout: 20
          connectionDraining: {
            enabled: true
            drainTimeoutInSec: 60
          }
          probe: {
            id: '${gatewayId}/probes/mesh'
          }
          trustedRootCertificates: [
            {
              id: '${gatewayId}/trustedRootCertificates/mesh'
            }
          ]
        }
      }
    ]
    redirectConfigurations: [
      {
        name: 'https'
        properties: {
          redirectType: 'Permanent'
          targetListener: {
            id: '${gatewayId}/httpListeners/public'
          }
          includePath: true
          includeQueryString: true
        }
      }
    ]
    requestRoutingRules: [
      {
        name: 'public'
        properties: {
          priority: 100
          ruleType: 'Basic'
          httpListener: {
            id: '${gatewayId}/httpListeners/public'
          }
          backendAddressPool: {
            id: '${gatewayId}/backendAddressPools/mesh'
          }
          backendHttpSettings: {
            id: '${gatewayId}/backendHttpSettingsCollection/mesh'
          }
        }
      }
      {
        name: 'private'
        properties: {
          priority: 110
          ruleType: 'Basic'
          httpListener: {
            id: '${gatewayId}/httpListeners/private'
          }
          backendAddressPool: {
            id: '${gatewayId}/backendAddressPools/mesh'
          }
          backendHttpSettings: {
            id: '${gatewayId}/backendHttpSettingsCollection/mesh'
          }
        }
      }
      {
        name: 'plaintext'
        properties: {
          priority: 120
          ruleType: 'Basic'
          httpListener: {
            id: '${gatewayId}/httpListeners/plaintext'
          }
          redirectConfiguration: {
            id: '${gatewayId}/redirectConfigurations/https'
          }
        }
      }
    ]
  }
}

output publicAddressId string = publicAddress.id

// Who answers for the mesh's name: of the regions that are well, the nearest. If all are sick, Azure answers as if all were well.
param name string
param host string
param healthPath string
param regions array
param targetIds array
param probeInterval int
param probeTimeout int
param toleratedFailures int
param dnsTtl int

resource profile 'Microsoft.Network/trafficManagerProfiles@2026-09-01' = {
  name: name
  location: 'global'
  properties: {
    profileStatus: 'Enabled'
    trafficRoutingMethod: 'Performance'
    dnsConfig: {
      relativeName: name
      ttl: dnsTtl
    }
    monitorConfig: {
      protocol: 'HTTPS'
      port: 443
      path: healthPath
      intervalInSeconds: probeInterval
      timeoutInSeconds: probeTimeout
      toleratedNumberOfFailures: toleratedFailures
      // Only 200: a redirect would be an answer of the Application Gateway alone.
      expectedStatusCodeRanges: [
        {
          min: 200
          max: 200
        }
      ]
      customHeaders: [
        {
          name: 'Host'
          value: host
        }
      ]
    }
    endpoints: [for (region, index) in regions: {
      name: region.name
      type: 'Microsoft.Network/trafficManagerProfiles/azureEndpoints'
      properties: {
        targetResourceId: targetIds[index]
        endpointStatus: 'Enabled'
      }
    }]
  }
}

output dnsName string = profile.properties.dnsConfig.fqdn
